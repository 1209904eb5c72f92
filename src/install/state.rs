//! The browser's state (RFC 6749, section 10.12): which portal an authorization was begun for, by which browser, and when.
//!
//! Nothing is stored: the state carries the portal and an end, and a MAC over both and the browser's cookie, keyed by the
//! application's secret, which every node has. It is checked before a code is spent. A receipt, by which the page of a finished
//! installation can be loaded again without its code, is made in the same way, without a cookie.

use crate::config::Application;
use crate::values::secret::{from_hex, hex};
use ring::hmac;

/// How long an installation may take, in seconds.
pub const LIFETIME: i64 = 600;
pub const COOKIE: &str = "b24proxy_install";

/// What a MAC is of: one for the other is worth nothing.
const STATE: &[u8] = b"b24proxy installation state";
const RECEIPT: &[u8] = b"b24proxy installation receipt";

pub fn issue(application: &Application, portal: &str, cookie: &str, now: i64) -> String {
    signed(&key(application, STATE), portal, cookie, now)
}

/// For the address of the page that says that the portal is installed. `named`: a host, or empty; whoever has the receipt can
/// read it.
pub fn receipt(application: &Application, portal: &str, named: &str, now: i64) -> String {
    let receipt = signed(&key(application, RECEIPT), portal, named, now);
    match named {
        "" => receipt,
        named => format!("{receipt}~{}", named.replace(':', "_")),
    }
}

/// `PORTAL~END~MAC`, of characters that need no escaping in an address but `:` in a portal's name, which `_` stands for.
fn signed(key: &hmac::Key, portal: &str, cookie: &str, now: i64) -> String {
    let ends = now + LIFETIME;
    let mac = hmac::sign(key, message(portal, ends, cookie).as_bytes());
    format!("{}~{ends}~{}", portal.replace(':', "_"), hex(mac.as_ref()))
}

/// The portal that a state or receipt names, not verified: it only chooses whose secret verifies it.
pub fn claimed_portal(state: &str) -> Option<String> {
    Some(state.split('~').next()?.replace('_', ":"))
}

pub fn verify(application: &Application, portal: &str, cookie: &str, state: &str, now: i64) -> bool {
    !cookie.is_empty() && is_signed(&key(application, STATE), portal, cookie, state, now)
}

/// What the receipt names, if it is one.
pub fn verify_receipt(application: &Application, portal: &str, receipt: &str, now: i64) -> Option<String> {
    let (receipt, named) = match receipt.matches('~').count() {
        3 => receipt.rsplit_once('~').filter(|(_, named)| !named.is_empty())?,
        _ => (receipt, ""),
    };
    let named = named.replace('_', ":");
    is_signed(&key(application, RECEIPT), portal, &named, receipt, now).then_some(named)
}

fn is_signed(key: &hmac::Key, portal: &str, cookie: &str, text: &str, now: i64) -> bool {
    let mut parts = text.split('~');
    let (Some(named), Some(ends), Some(mac), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Ok(ends), Some(mac)) = (ends.parse::<i64>(), from_hex(mac)) else { return false };
    let signed = hmac::verify(key, message(portal, ends, cookie).as_bytes(), &mac).is_ok();
    signed && named.replace('_', ":") == portal && (0..=LIFETIME).contains(&ends.saturating_sub(now))
}

fn key(application: &Application, purpose: &[u8]) -> hmac::Key {
    let seed = hmac::Key::new(hmac::HMAC_SHA256, application.client_secret.expose().as_bytes());
    let derived = hmac::sign(&seed, purpose);
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
    fn a_receipt_is_bound_to_portal_secret_and_ten_minutes_and_is_no_state() {
        let application = application("s");
        for named in ["", "oauth.example:8443", "-"] {
            let receipt = receipt(&application, "acme.bitrix24.ru", named, 1000);
            let ok =
                |portal, now| verify_receipt(&application, portal, &receipt, now).is_some_and(|told| told == named);
            assert!(ok("acme.bitrix24.ru", 1000) && ok("acme.bitrix24.ru", 1600));
            assert!(!ok("acme.bitrix24.ru", 1601) && !ok("acme.bitrix24.ru", 999) && !ok("other.bitrix24.ru", 1000));
            assert_eq!(verify_receipt(&super::tests::application("t"), "acme.bitrix24.ru", &receipt, 1000), None);
            assert_eq!(
                verify_receipt(&application, "acme.bitrix24.ru", &format!("{receipt}~evil.example"), 1000),
                None
            );
            assert_eq!(verify_receipt(&application, "acme.bitrix24.ru", &format!("{receipt}x"), 1000), None);
            assert!(!verify(&application, "acme.bitrix24.ru", "", &receipt, 1000));
        }
        let state = issue(&application, "acme.bitrix24.ru", "", 1000);
        assert_eq!(verify_receipt(&application, "acme.bitrix24.ru", &state, 1000), None);
        assert!(!verify(&application, "acme.bitrix24.ru", "", &state, 1000), "a state needs a cookie");
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
            prop_assert!(verify_receipt(&application("s"), "acme.bitrix24.ru", &state, 1000).is_none());
            let _ = cookie_value(&header);
            let _ = claimed_portal(&state);
        }
    }
}
