//! Contract section 5.6: what `ONAPPUNINSTALL` needs before anything is moved.

use crate::fixture::*;
use crate::visitor::*;
use simulator::{Action, Fault, Target};

/// Installed by Bitrix24's own event, so that its `application_token` is stored.
fn installed() -> Proxy {
    let proxy = Proxy::not_installed();
    assert_eq!(proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")).status, 200);
    proxy
}

fn removed(proxy: &Proxy) -> Option<Vec<u8>> {
    proxy.sandbox.token_file(&format!("{}.json.removed", proxy.stem()))
}

#[test]
fn tokens_that_bitrix24_refuses_are_moved_aside_and_not_deleted() {
    let proxy = installed();
    let before = proxy.stored_bytes();
    proxy.portal().uninstall();
    let answer = proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.stored_bytes(), None);
    assert_eq!(removed(&proxy), before);
    assert_says(&answer.stderr, &["ONAPPUNINSTALL"]);
    assert_failure(&proxy.call("profile", serde_json::json!({})), 409, "not_installed");
    assert_failure(&proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL")), 409, "not_installed");
    page(&proxy.install_in_browser(1), 200);
    assert_eq!(removed(&proxy), before, "the old ones stay aside");
}

#[test]
fn while_the_stored_tokens_work_nothing_is_moved() {
    let proxy = installed();
    let before = proxy.stored_bytes();
    let answer = proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL"));
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert_eq!((proxy.stored_bytes(), removed(&proxy)), (before, None));
}

#[test]
fn an_access_token_that_fails_is_not_enough_while_a_refresh_works() {
    let proxy = installed();
    for break_access in [simulator::Portal::revoke_access_tokens, simulator::Portal::expire_access_tokens] {
        break_access(&proxy.portal());
        assert_eq!(proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL")).status, 409);
        assert!(proxy.portal().is_live(proxy.stored()["refresh_token"].as_str().unwrap()));
        assert_eq!(removed(&proxy), None);
        proxy.change_stored(|tokens| tokens["refreshed_at"] = 0.into());
    }
}

#[test]
fn a_refresh_token_that_is_revoked_is_not_enough_while_the_access_token_works() {
    let proxy = installed();
    let before = proxy.stored_bytes();
    proxy.portal().revoke_refresh_tokens();
    assert_eq!(proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL")).status, 409);
    assert_eq!((proxy.stored_bytes(), removed(&proxy)), (before, None));
}

#[test]
fn an_oauth_server_that_does_not_say_invalid_grant_moves_nothing() {
    let proxy = installed();
    let before = proxy.stored_bytes();
    proxy.portal().revoke_access_tokens();
    let temporarily =
        Action::ErrorJson { status: 503, error: "temporarily_unavailable".into(), error_description: String::new() };
    for action in [Action::Html500, Action::CloseBefore, temporarily] {
        proxy.a_minute_passes();
        proxy.simulator.inject(Fault::once(Target::Token, action));
        let answer = proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL"));
        assert_failure(&answer, 502, "oauth_server_error");
        assert_eq!(answer.text().matches("did not give a token").count(), 1, "{}", answer.text());
    }
    proxy.a_minute_passes();
    proxy.portal().set_payment_required(true);
    assert_failure(&proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL")), 502, "oauth_server_error");
    assert_eq!((proxy.stored_bytes(), removed(&proxy)), (before, None));
}

#[test]
fn the_stored_application_token_is_needed_and_nothing_else_will_do() {
    let proxy = installed();
    let before = proxy.stored_bytes();
    proxy.portal().uninstall();
    proxy.simulator.clear_ledger();
    let form = proxy.portal().event_form("ONAPPUNINSTALL");
    let token = proxy.portal().application_token();
    let app_sid = proxy.portal().frame_form(1).app_sid;
    for wrong in ["", "x", &token[1..], &token.to_uppercase().replace(char::is_numeric, "F"), &app_sid, "%00"] {
        assert_failure(&proxy.post_event(&form.replace(&token, wrong)), 403, "forbidden");
    }
    let without: Vec<&str> = form.split('&').filter(|field| !field.contains("application_token")).collect();
    assert_failure(&proxy.post_event(&without.join("&")), 403, "forbidden");
    let sid = format!("event=ONAPPUNINSTALL&auth[domain]={}&APP_SID={token}", proxy.portal().name());
    assert_failure(&proxy.post_event(&sid), 403, "forbidden");
    assert_eq!((proxy.stored_bytes(), removed(&proxy)), (before, None));
    assert_eq!(proxy.simulator.ledger().all_connections(), 0, "Bitrix24 is not asked for a stranger");
}

#[test]
fn an_empty_application_token_never_matches_an_empty_one() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    assert_eq!(proxy.stored()["application_token"], "");
    proxy.portal().uninstall();
    let form = proxy.portal().event_form("ONAPPUNINSTALL");
    let empty = form.replace(&proxy.portal().application_token(), "");
    assert_failure(&proxy.post_event(&empty), 403, "forbidden");
    assert_failure(&proxy.post_event(&form), 403, "forbidden");
    assert_eq!((proxy.stored_bytes(), removed(&proxy)), (before, None));
}

#[test]
fn an_application_installed_in_the_frame_can_be_removed_too() {
    let proxy = Proxy::not_installed();
    page(&proxy.open_as(1), 200);
    proxy.portal().uninstall();
    assert_eq!(proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL")).status, 200);
    assert_eq!(proxy.stored_bytes(), None);
}

#[test]
fn what_somebody_installed_while_a_removal_was_being_checked_stays() {
    let proxy = installed();
    proxy.portal().uninstall();
    proxy.simulator.inject(Fault::once(Target::Method("profile".into()), Action::HangAfter));
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL")));
        assert!(proxy.simulator.wait_hanging(1, std::time::Duration::from_secs(5)));
        page(&proxy.install_in_browser(1), 200);
        proxy.simulator.release();
        assert_eq!(removal.join().unwrap().status, 409);
    });
    assert!(proxy.portal().is_live(proxy.stored()["refresh_token"].as_str().unwrap()));
    assert_eq!(removed(&proxy), None);
}
