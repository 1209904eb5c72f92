//! The browser's state (RFC 6749, section 10.12): which portal an authorization was begun for, by which browser, and when.
//!
//! Nothing is stored: the state carries the portal and an end, and a MAC over both and the browser's cookie, keyed by the
//! application's secret. It is checked before a code is spent.

use crate::config::Application;
use crate::values::secret::{from_hex, hex};
use ring::hmac;

/// How long an installation may take, in seconds.
pub const LIFETIME: i64 = 600;
pub const COOKIE: &str = "b24proxy_install";

/// `PORTAL~END~MAC`, of characters that need no escaping in an address but `:` in a portal's name, which `_` stands for.
pub fn issue(application: &Application, portal: &str, cookie: &str, now: i64) -> String {
    let ends = now + LIFETIME;
    let mac = hmac::sign(&key(application), message(portal, ends, cookie).as_bytes());
    format!("{}~{ends}~{}", portal.replace(':', "_"), hex(mac.as_ref()))
}

/// The portal that a state names, not verified: it only chooses whose secret verifies it.
pub fn claimed_portal(state: &str) -> Option<String> {
    Some(state.split('~').next()?.replace('_', ":"))
}

pub fn verify(application: &Application, portal: &str, cookie: &str, state: &str, now: i64) -> bool {
    let mut parts = state.split('~');
    let (Some(named), Some(ends), Some(mac), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Ok(ends), Some(mac)) = (ends.parse::<i64>(), from_hex(mac)) else { return false };
    let signed = hmac::verify(&key(application), message(portal, ends, cookie).as_bytes(), &mac).is_ok();
    signed && named.replace('_', ":") == portal && !cookie.is_empty() && (0..=LIFETIME).contains(&(ends - now))
}

fn key(application: &Application) -> hmac::Key {
    let seed = hmac::Key::new(hmac::HMAC_SHA256, application.client_secret.expose().as_bytes());
    let derived = hmac::sign(&seed, b"b24proxy installation state");
    hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
}

fn message(portal: &str, ends: i64, cookie: &str) -> String {
    format!("{portal}\n{ends}\n{cookie}")
}

/// The value of our cookie in a `Cookie` header (RFC 6265, section 4.2).
pub fn cookie_value(header: &str) -> Option<&str> {
    header.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        let clean = !value.is_empty() && value.len() <= 64 && value.bytes().all(|b| b.is_ascii_alphanumeric());
        (name == COOKIE && clean).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::secret::Secret;
    use proptest::prelude::*;

    fn application(secret: &str) -> Application {
        Application { client_id: "local.1".into(), client_secret: Secret::new(secret) }
    }

    #[test]
    fn a_state_is_bound_to_portal_cookie_secret_and_ten_minutes() {
        let application = application("s");
        let state = issue(&application, "crm.example.org:8443", "cookie", 1000);
        assert_eq!(claimed_portal(&state).as_deref(), Some("crm.example.org:8443"));
        let ok = |portal, cookie, now| verify(&application, portal, cookie, &state, now);
        assert!(ok("crm.example.org:8443", "cookie", 1000));
        assert!(ok("crm.example.org:8443", "cookie", 1600));
        assert!(!ok("crm.example.org:8443", "cookie", 1601));
        assert!(!ok("crm.example.org:8443", "cookie", 999), "not from the future");
        assert!(!ok("acme.bitrix24.ru", "cookie", 1000));
        assert!(!ok("crm.example.org:8443", "other", 1000));
        assert!(!ok("crm.example.org:8443", "", 1000));
        let other = super::tests::application("t");
        assert!(!verify(&other, "crm.example.org:8443", "cookie", &state, 1000));
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        assert_eq!(cookie_value("a=1; b24proxy_install=abc123; c"), Some("abc123"));
        assert_eq!(cookie_value("xb24proxy_install=abc"), None);
        assert_eq!(cookie_value("b24proxy_install=a b"), None);
    }

    proptest! {
        #[test]
        fn no_forged_state_passes(state in "\\PC{0,80}", cookie in "[a-z0-9]{0,10}", header in "\\PC{0,60}") {
            prop_assert!(!verify(&application("s"), "acme.bitrix24.ru", &cookie, &state, 1000));
            let _ = cookie_value(&header);
            let _ = claimed_portal(&state);
        }
    }
}
