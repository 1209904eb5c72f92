//! Contract section 2: `GET /status`, as JSON and as a page, for a client only its own portals.

use crate::fixture::*;
use crate::visitor::*;
use serde_json::json;
use simulator::{Action, Fault, PortalOptions, Target};
use support::cgi::Answer;

fn status(proxy: &Proxy) -> Answer {
    proxy.get("/status").bearer(TOKEN).run()
}

fn first(answer: &Answer) -> serde_json::Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"]["portals"][0].clone()
}

#[test]
fn status_tells_who_installed_when_until_when_and_the_limits() {
    let proxy = Proxy::not_installed();
    let before = first(&status(&proxy));
    assert_eq!(before["state"], "not_installed");
    assert_says(before["install_url"].as_str().unwrap(), &["/install?portal=", &proxy.portal().name()]);

    page(&proxy.install_in_browser(1), 200);
    let answer = status(&proxy);
    let portal = first(&answer);
    assert_eq!(portal["portal"], proxy.portal().name().as_str());
    assert_eq!(portal["state"], "installed");
    assert_eq!(portal["user_id"], 1);
    assert_eq!(portal["scope"], "crm,catalog,sale,task,user");
    assert_eq!(portal["refreshed_at"], 0);
    assert_eq!(portal["last_refresh_error"], json!(null));
    assert_eq!(
        portal["limits"],
        json!({"requests_per_second": 2.0, "burst": 50.0, "level": portal["limits"]["level"]})
    );
    assert!((portal["installed_at"].as_i64().unwrap() - unix_now()).abs() < 5);
    assert!((portal["expires_at"].as_i64().unwrap() - unix_now() - 3600).abs() < 5);
    proxy.assert_no_secret(&answer);
}

#[test]
fn status_tells_of_the_last_refresh_and_of_its_error() {
    let proxy = Proxy::not_installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.simulator.inject(Fault::once(Target::Token, Action::Html500));
    assert_failure(&proxy.call("profile", json!({})), 502, "oauth_server_error");
    let portal = first(&status(&proxy));
    assert_says(portal["last_refresh_error"]["error"].as_str().unwrap(), &["status 500"]);
    let answer = proxy.get("/status").bearer(TOKEN).header("Accept", "text/html").run();
    assert_says(&page(&answer, 200), &["Refresh error", "status 500"]);
    let russian =
        proxy.get("/status").bearer(TOKEN).header("Accept", "text/html").header("Accept-Language", "ru").run();
    let text = page(&russian, 200);
    assert_says(&text, &["Ошибка обновления", "статус 500"]);
    assert!(!text.contains("answered"), "no English sentence on a Russian page: {text}");

    proxy.a_minute_passes();
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    let portal = first(&status(&proxy));
    assert_eq!(portal["last_refresh_error"], json!(null));
    assert!((portal["refreshed_at"].as_i64().unwrap() - unix_now()).abs() < 5);
}

#[test]
fn status_is_a_page_for_a_browser_in_its_language() {
    let proxy = Proxy::installed();
    let request = || proxy.get("/status").bearer(TOKEN).header("Accept", "text/html,*/*;q=0.8");
    let answer = request().run();
    assert_says(&page(&answer, 200), &["State of b24proxy", "Installed by", "of 50 in use, 2 a second", " UTC"]);
    assert!(policy(&answer).contains("frame-ancestors 'none'"));
    proxy.assert_no_secret(&answer);
    let answer = request().header("Accept-Language", "ru").run();
    assert_says(&page(&answer, 200), &["Состояние b24proxy", "2 запроса в секунду, подряд до 50; сейчас занято "]);
    assert_says(&page(&request().query("LANG=ru").run(), 200), &["Состояние b24proxy"]);
}

#[test]
fn a_client_sees_only_its_own_portals() {
    let proxy = Proxy::installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let proxy = with_another_client(proxy, &other.name());
    assert_eq!(status(&proxy).json()["data"]["portals"].as_array().unwrap().len(), 2);
    for accept in ["application/json", "text/html"] {
        let answer = proxy.get("/status").bearer(ANOTHER_TOKEN).header("Accept", accept).run();
        assert_eq!(answer.status, 200);
        assert_says(&answer.text(), &[&other.name()]);
        assert!(!answer.text().contains(&proxy.portal().name()), "{}", answer.text());
    }
}

#[test]
fn nobody_without_credentials_sees_a_portal() {
    let proxy = Proxy::installed();
    for answer in [proxy.get("/status").run(), proxy.get("/status").bearer("a-wrong-token-of-that-length").run()] {
        assert_failure(&answer, 401, "unauthorized");
        assert!(!answer.text().contains(&proxy.portal().name()));
    }
    let closed = Proxy::installed().reconfigured("[security]", "[security]\nallowed_ips = [\"192.0.2.1\"]");
    assert_failure(&status(&closed), 403, "forbidden");
}

#[test]
fn a_damaged_token_file_and_a_webhook_have_states_of_their_own() {
    let proxy = Proxy::not_installed();
    proxy.sandbox.write_token_file(&format!("{}.json", proxy.stem()), "[]");
    assert_eq!(first(&status(&proxy))["state"], "broken");
    let webhook = format!("webhook = \"{}\"\naliases", proxy.portal().webhook_url());
    let proxy = proxy.reconfigured("aliases", &webhook);
    let answer = status(&proxy);
    assert_eq!(first(&answer)["state"], "webhook");
    proxy.assert_no_secret(&answer);
}

#[test]
fn status_asks_nobody() {
    let proxy = Proxy::not_installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    let before = proxy.stored_bytes();
    assert_eq!(first(&status(&proxy))["state"], "installed");
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
    assert_eq!(proxy.stored_bytes(), before);
}
