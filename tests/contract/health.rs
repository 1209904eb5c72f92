//! Contract section 2: `GET /health?portal=NAME`, for monitors: whether a portal's calls work now.

use crate::fixture::*;
use serde_json::json;
use simulator::{Action, Fault, PortalOptions, Target};
use support::cgi::Answer;

fn health(proxy: &Proxy) -> Answer {
    proxy.get("/health").query("portal=acme").bearer(TOKEN).run()
}

#[track_caller]
fn assert_well(proxy: &Proxy) {
    let answer = health(proxy);
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"status":"ok"}"#));
}

#[track_caller]
fn assert_ill(proxy: &Proxy, reason: &str) {
    let answer = health(proxy);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json(), json!({"status": "unavailable", "reason": reason}));
    proxy.assert_no_secret(&answer);
}

/// As if nobody had tried for a minute.
fn a_minute_passes(proxy: &Proxy) {
    let name = format!("{}.limits", proxy.stem());
    let text = String::from_utf8(proxy.sandbox.token_file(&name).expect("it was tried")).unwrap();
    let mut known: serde_json::Value = serde_json::from_str(&text).unwrap();
    known["tally"]["tried"] = (unix_now() - 61).into();
    proxy.sandbox.write_token_file(&name, &known.to_string());
}

fn tries(proxy: &Proxy) -> usize {
    proxy.simulator.ledger().calls("profile")
}

#[test]
fn a_portals_health_is_tried_by_profile_at_most_once_a_minute_for_all_processes() {
    let proxy = Proxy::installed();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_well(&proxy));
        }
    });
    assert_eq!(tries(&proxy), 1);
    a_minute_passes(&proxy);
    assert_well(&proxy);
    assert_well(&proxy);
    assert_eq!(tries(&proxy), 2);
    let status = proxy.get("/status").bearer(TOKEN).run().json()["data"]["portals"][0].clone();
    assert_eq!(
        (&status["last_call"], &status["calls"]["day"]["auth_token"]),
        (&json!(null), &json!(0)),
        "a try is no call"
    );
}

#[test]
fn the_reason_is_told_and_in_between_the_last_try_or_call_says_it() {
    let proxy = Proxy::not_installed();
    assert_ill(&proxy, "not_installed");
    proxy.store_pair(&proxy.portal().issue_pair(1));
    assert_well(&proxy);
    // The tokens die: until the next try or call nobody knows.
    proxy.portal().revoke_access_tokens();
    proxy.portal().revoke_refresh_tokens();
    assert_well(&proxy);
    assert_failure(&proxy.call("sim.echo", json!({})), 409, "reinstall_required");
    let before = proxy.simulator.ledger().all_connections();
    assert_ill(&proxy, "reinstall_required");
    assert_eq!(proxy.simulator.ledger().all_connections(), before, "nobody was asked");
    a_minute_passes(&proxy);
    assert_ill(&proxy, "reinstall_required");
    let asked = proxy.simulator.ledger().all_connections();
    assert!(asked > before);
    assert_ill(&proxy, "reinstall_required");
    assert_eq!(proxy.simulator.ledger().all_connections(), asked);
}

#[test]
fn a_try_that_finds_dead_tokens_is_told_to_status_too() {
    let proxy = Proxy::installed();
    proxy.portal().revoke_access_tokens();
    proxy.portal().revoke_refresh_tokens();
    assert_ill(&proxy, "reinstall_required");
    let status = proxy.get("/status").bearer(TOKEN).run().json()["data"]["portals"][0].clone();
    assert_eq!((&status["works"], &status["reason"]), (&json!(false), &json!("reinstall_required")), "{status}");
}

#[test]
fn an_expired_token_is_renewed_by_the_try_as_by_a_call() {
    let proxy = Proxy::not_installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    assert_well(&proxy);
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}

#[test]
fn a_portal_that_is_away_or_refuses_profile_is_ill_until_it_answers_again() {
    let proxy = Proxy::installed();
    proxy.portal().stop();
    assert_ill(&proxy, "bitrix24_unreachable");
    proxy.portal().start().unwrap();
    assert_ill(&proxy, "bitrix24_unreachable");
    a_minute_passes(&proxy);
    assert_well(&proxy);
    assert_well(&proxy);
    let denied = Action::ErrorJson { status: 403, error: "ACCESS_DENIED".into(), error_description: "plan".into() };
    proxy.simulator.inject(Fault::once(Target::Method("profile".into()), denied));
    a_minute_passes(&proxy);
    assert_ill(&proxy, "bitrix24_error");
    assert_ill(&proxy, "bitrix24_error");
    // A call that succeeds says it too.
    assert_eq!(proxy.call("sim.echo", json!({})).status, 200);
    assert_well(&proxy);
}

#[test]
fn it_is_for_clients_and_their_portals_and_anyone_gets_the_health_of_the_program_alone() {
    let proxy = Proxy::installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let proxy = with_another_client(proxy, &other.name());
    let ask = |query: &str, token: Option<&str>| {
        let request = proxy.get("/health").query(query);
        token.map_or(request.clone(), |token| request.bearer(token)).run()
    };
    assert_failure(&ask("portal=acme", None), 401, "unauthorized");
    assert_failure(&ask("portal=acme", Some("a-wrong-token-of-that-length")), 401, "unauthorized");
    assert_failure(&ask("portal=acme", Some(ANOTHER_TOKEN)), 403, "forbidden");
    assert_failure(&ask("portal=nobody.example.org", Some(TOKEN)), 404, "unknown_portal");
    assert_eq!(ask(&format!("portal={}", other.name()), Some(TOKEN)).json()["reason"], "not_installed");
    assert_eq!(tries(&proxy), 0);
    for query in ["", "portal=", "x=1"] {
        assert_eq!((ask(query, None).status, tries(&proxy)), (200, 0), "{query}");
    }
    let head = proxy.get("/health").query("portal=acme").bearer(TOKEN).method("HEAD").run();
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn a_portal_with_a_webhook_has_a_health_too() {
    let proxy = Proxy::not_installed();
    let webhook = format!("webhook = \"{}\"\naliases", proxy.portal().webhook_url());
    let proxy = proxy.reconfigured("aliases", &webhook);
    assert_well(&proxy);
    proxy.simulator.inject(Fault::forever(Target::Call, Action::Html500));
    a_minute_passes(&proxy);
    assert_ill(&proxy, "bitrix24_bad_answer");
}

#[test]
fn a_storage_that_cannot_be_used_is_the_reason_before_the_portal_is() {
    let proxy = Proxy::installed().on_files();
    let folder = proxy.sandbox.tokens();
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    assert_ill(&proxy, "storage_error");
    assert_eq!(tries(&proxy), 0);
}
