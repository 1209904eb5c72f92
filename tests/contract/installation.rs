//! Contract section 5.6: an installation by a browser.

use crate::fixture::*;
use serde_json::json;
use simulator::{Options, PortalOptions};
use support::cgi::Answer;

/// A browser that has begun an installation: its state and its cookie.
struct Browser {
    state: String,
    cookie: String,
}

fn begin(proxy: &Proxy) -> Browser {
    let answer = install_page(proxy);
    let location = answer.header("Location").expect("a redirect").to_owned();
    let state = location.split("state=").nth(1).expect("a state").to_owned();
    let cookie = answer.header("Set-Cookie").expect("a cookie").split(';').next().unwrap().to_owned();
    Browser { state, cookie }
}

fn install_page(proxy: &Proxy) -> Answer {
    proxy.get("/install").query(&format!("portal={}", proxy.portal().name())).run()
}

fn come_back(proxy: &Proxy, browser: &Browser, code: &str) -> Answer {
    let query = format!("code={code}&state={}&domain={}", browser.state, proxy.portal().name());
    proxy.followed(proxy.get("/callback").query(&query).header("Cookie", &browser.cookie).run())
}

#[test]
fn install_redirects_to_the_portals_authorization_page_with_a_bound_cookie() {
    let proxy = Proxy::not_installed();
    let answer = install_page(&proxy);
    assert_eq!(answer.status, 302, "{}", answer.text());
    let location = answer.header("Location").unwrap();
    let start = format!("{}/oauth/authorize/?client_id={}&state=", proxy.portal().url(), proxy.simulator.client_id());
    assert!(location.starts_with(&start), "{location}");
    assert!(!location.contains(&proxy.simulator.client_secret()));
    let cookie = answer.header("Set-Cookie").unwrap();
    for attribute in ["HttpOnly", "SameSite=Lax", "Secure", "Max-Age=600"] {
        assert!(cookie.split("; ").any(|part| part == attribute), "{attribute} is not in {cookie}");
    }
    assert_eq!(answer.header("Referrer-Policy"), Some("no-referrer"));
    // Only under https may the cookie be Secure.
    let proxy = proxy.reconfigured("https://www.acme.test/", "http://www.acme.test/");
    let answer = install_page(&proxy);
    assert!(!answer.header("Set-Cookie").unwrap().contains("Secure"));
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn install_of_an_unknown_portal_is_404() {
    let proxy = Proxy::not_installed();
    assert_eq!(proxy.get("/install").query("portal=evil.example").run().status, 404);
}

#[test]
fn the_way_back_stores_the_pair_with_every_field() {
    let proxy = Proxy::not_installed();
    // The token folder is made where it is missing, for its owner only.
    std::fs::remove_dir(proxy.sandbox.tokens()).unwrap();
    let browser = begin(&proxy);
    let code = proxy.portal().issue_code(1);
    let answer = come_back(&proxy, &browser, &code);
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_eq!(answer.header("Referrer-Policy"), Some("no-referrer"));
    assert!(answer.header("Content-Security-Policy").is_some_and(|policy| policy.contains("frame-ancestors")));

    let mode = |name: &str| {
        let metadata = std::fs::metadata(proxy.sandbox.tokens().join(name)).unwrap();
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777
    };
    let pair = if proxy.sandbox.database().is_some() { "kept" } else { "json" };
    assert_eq!((mode(""), mode(&format!("{}.{pair}", proxy.stem()))), (0o700, 0o600));

    let stored = proxy.stored();
    let portal = proxy.portal();
    for (name, value) in [
        ("member_id", portal.member_id()),
        ("client_endpoint", portal.client_endpoint()),
        ("server_endpoint", format!("{}/rest/", proxy.simulator.oauth_url())),
        ("domain", proxy.simulator.oauth_url().replace("https://", "")),
        ("scope", "crm,catalog,sale,task,user".to_owned()),
        ("client_id", proxy.simulator.client_id()),
        ("application_token", String::new()),
    ] {
        assert_eq!(stored[name], value, "{name}");
    }
    assert_eq!((stored["user_id"].as_i64(), stored["refreshed_at"].as_i64()), (Some(1), Some(0)));
    let near = |name: &str, expected: i64| (stored[name].as_i64().unwrap() - expected).abs() <= 3;
    assert!(near("installed_at", unix_now()) && near("expires_at", unix_now() + 3600), "{stored}");
    assert!(portal.is_live(stored["refresh_token"].as_str().unwrap()));
    assert_eq!(proxy.call("crm.deal.add", json!({"fields": {}})).status, 200);
    for secret in [stored["access_token"].as_str().unwrap(), stored["refresh_token"].as_str().unwrap(), &code] {
        assert!(!answer.text().contains(secret) && !answer.stderr.contains(secret));
    }
}

#[test]
fn a_wrong_state_or_cookie_is_403_and_the_code_is_not_spent() {
    let proxy = Proxy::not_installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let mine = begin(&proxy);
    let theirs = begin(&proxy);
    let state = |state: &str| Browser { state: state.to_owned(), cookie: mine.cookie.clone() };
    let forged = mine.state.replace(&proxy.portal().name().replace(':', "_"), &other.name().replace(':', "_"));
    assert_ne!(forged, mine.state);
    for browser in [
        state(""),
        state("nonsense"),
        state(&theirs.state),
        state(&forged),
        Browser { state: mine.state.clone(), cookie: String::new() },
        Browser { state: mine.state.clone(), cookie: theirs.cookie.clone() },
        Browser { state: mine.state.clone(), cookie: "b24proxy_install=".into() },
    ] {
        let answer = come_back(&proxy, &browser, &proxy.portal().issue_code(1));
        assert_eq!(answer.status, 403, "{} {}", browser.state, browser.cookie);
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0, "no code was spent");
    assert_eq!(proxy.stored_bytes(), None);
}

#[test]
fn an_employee_cannot_install() {
    let proxy = Proxy::not_installed();
    let answer = come_back(&proxy, &begin(&proxy), &proxy.portal().issue_code(2));
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(proxy.stored_bytes(), None);
}

#[test]
fn an_authorization_on_another_portal_than_it_was_begun_for_is_403() {
    let proxy = Proxy::not_installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let answer = come_back(&proxy, &begin(&proxy), &other.issue_code(1));
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(proxy.stored_bytes(), None);
    assert_eq!(proxy.simulator.ledger().connections(&other.name()), 0, "the other portal is not contacted");
}

#[test]
fn an_installation_by_another_bitrix24_under_a_known_name_is_409_and_names_the_file() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    proxy.portal().set_member_id("another-bitrix24");
    let answer = come_back(&proxy, &begin(&proxy), &proxy.portal().issue_code(1));
    assert_eq!(answer.status, 409, "{}", answer.text());
    let place = match proxy.sandbox.database() {
        None => proxy.place(),
        Some(_) => format!("WHERE portal = &#39;{}&#39;", proxy.portal().name()),
    };
    assert!(answer.text().contains(&place), "{}", answer.text());
    assert_eq!(proxy.stored_bytes(), before);
}

#[test]
fn a_code_cannot_be_used_twice_and_the_first_installation_stands() {
    let proxy = Proxy::with(Options::default());
    let browser = begin(&proxy);
    let code = proxy.portal().issue_code(1);
    assert_eq!(come_back(&proxy, &browser, &code).status, 200);
    let before = proxy.stored_bytes();
    // A page that is loaded again: either the code is spent, or the installation works already.
    let again = come_back(&proxy, &browser, &code);
    assert!(matches!(again.status, 400 | 200), "{} {}", again.status, again.text());
    assert_eq!(proxy.stored_bytes(), before);
    assert_eq!(proxy.call("profile", json!({})).status, 200);
}
