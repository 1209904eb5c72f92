//! `b24proxy import FILE`.

use crate::fixture::*;
use crate::{run, Ended};
use serde_json::{json, Value};
use simulator::{KeyPair, PortalOptions, TokenPair};

/// CRest's settings.json.
pub fn crest(pair: &TokenPair) -> Value {
    let portal = pair.client_endpoint.split("://").nth(1).unwrap().split('/').next().unwrap();
    json!({
        "access_token": pair.access_token, "expires_in": "3600", "application_token": "php-application-token",
        "refresh_token": pair.refresh_token, "domain": portal, "client_endpoint": pair.client_endpoint,
    })
}

fn import(proxy: &Proxy, file: &Value) -> Ended {
    proxy.sandbox.write("settings.json", 0o600, file.to_string().as_bytes());
    run(proxy, &["import", proxy.sandbox.path().join("settings.json").to_str().unwrap()])
}

#[test]
fn crests_tokens_are_tried_and_taken_over_without_the_application_token() {
    let proxy = Proxy::not_installed();
    let ended = import(&proxy, &crest(&proxy.portal().issue_pair(1)));
    assert_eq!(ended.code, 0, "{}", ended.all());
    assert_eq!(proxy.simulator.ledger().calls("profile"), 1);
    assert_eq!(proxy.stored()["application_token"], "");
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    assert_eq!(proxy.simulator.ledger().refreshes(), 0);
}

#[test]
fn bitrix24s_own_answer_with_an_expired_token_is_refreshed_and_works() {
    let proxy = Proxy::not_installed();
    let mut answer = proxy.portal().issue_pair(1).to_json();
    answer["expires"] = json!(unix_now() - 100);
    let ended = import(&proxy, &answer);
    assert_eq!(ended.code, 0, "{}", ended.all());
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    assert_eq!(proxy.stored()["member_id"], proxy.portal().member_id());
}

#[test]
fn tokens_that_bitrix24_refuses_are_not_kept() {
    let proxy = Proxy::not_installed();
    let mut file = crest(&proxy.portal().issue_pair(1));
    file["expires"] = json!(unix_now() - 100);
    proxy.portal().uninstall();
    let ended = import(&proxy, &file);
    assert!(ended.code == 1 && ended.stderr.contains("nothing is imported"), "{}", ended.all());
    assert_eq!(proxy.stored_bytes(), None);
    file.as_object_mut().unwrap().remove("expires");
    assert_eq!(import(&proxy, &file).code, 1);
    assert_eq!(proxy.stored_bytes(), None);
}

#[test]
fn tokens_that_bitrix24_refuses_take_the_place_of_nothing() {
    let proxy = Proxy::installed();
    proxy.change_stored(|tokens| tokens["application_token"] = "kept".into());
    let mut file = crest(&proxy.portal().issue_pair(1));
    file["expires"] = json!(unix_now() - 100);
    proxy.portal().uninstall();
    let before = proxy.stored();
    let ended = import(&proxy, &file);
    assert!(ended.code == 1 && ended.stderr.contains("nothing is imported"), "{}", ended.all());
    let mut after = proxy.stored();
    assert!(
        after.as_object_mut().unwrap().remove("replaces").is_some(),
        "it was put back in the place of the refused one"
    );
    assert_eq!(after, before);
}

#[test]
fn what_ties_a_portal_to_its_bitrix24_stays_and_the_user_is_known() {
    for expired in [false, true] {
        let proxy = Proxy::installed();
        proxy.change_stored(|tokens| tokens["application_token"] = "kept".into());
        proxy.portal().uninstall();
        let mut file = crest(&proxy.portal().issue_pair(1));
        if expired {
            file["expires"] = json!(unix_now() - 100);
        }
        let ended = import(&proxy, &file);
        assert_eq!(ended.code, 0, "{}", ended.all());
        let stored = proxy.stored();
        assert_eq!((&stored["application_token"], &stored["user_id"]), (&json!("kept"), &json!(1)), "{expired}");
        assert_eq!(stored["member_id"], proxy.portal().member_id());
    }
}

#[test]
fn tokens_that_cannot_be_tried_now_are_kept_and_that_is_said() {
    let proxy = Proxy::not_installed();
    let mut file = crest(&proxy.portal().issue_pair(1));
    file["expires"] = json!(unix_now() - 100);
    proxy.simulator.stop_oauth();
    let ended = import(&proxy, &file);
    assert!(ended.code == 1 && ended.stderr.contains("not known yet"), "{}", ended.all());
    assert!(proxy.stored_bytes().is_some());
}

#[test]
fn tokens_that_work_and_those_of_another_member_are_not_replaced() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    let pair = proxy.portal().issue_pair(1);
    let ended = import(&proxy, &crest(&pair));
    assert!(ended.code == 1 && ended.stderr.contains("already work"), "{}", ended.all());
    let mut other = pair.to_json();
    other["member_id"] = json!("another-member");
    let ended = import(&proxy, &other);
    assert!(ended.code == 1 && ended.stderr.contains("another Bitrix24"), "{}", ended.all());
    assert_eq!(proxy.stored_bytes(), before);
}

#[test]
fn tokens_that_no_longer_work_are_replaced() {
    let proxy = Proxy::installed();
    proxy.portal().uninstall();
    let ended = import(&proxy, &crest(&proxy.portal().issue_pair(1)));
    assert_eq!(ended.code, 0, "{}", ended.all());
    assert_eq!(proxy.call("profile", json!({})).status, 200);
}

#[test]
fn a_portal_that_is_not_configured_and_another_application_are_named() {
    let proxy = Proxy::not_installed();
    let stranger = proxy.simulator.add_portal(PortalOptions::default());
    let ended = import(&proxy, &crest(&stranger.issue_pair(1)));
    assert!(ended.code == 1 && ended.stderr.contains(&format!("[portals.\"{}\"]", stranger.name())), "{}", ended.all());
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);

    let pair = proxy.portal().issue_pair(1);
    let KeyPair { client_id, client_secret } = proxy.portal().key_pair();
    assert!(client_id.starts_with("local."), "{client_id}");
    let proxy = proxy.reconfigured(&client_id, "local.other").reconfigured(&client_secret, "another-secret");
    let ended = import(&proxy, &crest(&pair));
    assert!(ended.code == 1 && ended.stderr.contains("another application"), "{}", ended.all());
    assert_eq!(proxy.stored_bytes(), None);
}

#[test]
fn what_is_not_a_file_of_tokens_is_named() {
    let proxy = Proxy::not_installed();
    let absent = run(&proxy, &["import", "absent.json"]);
    assert!(absent.code == 1 && absent.stderr.contains("absent.json"), "{}", absent.all());
    let ended = import(&proxy, &json!({"access_token": "x"}));
    assert!(ended.code == 1 && ended.stderr.contains("refresh_token"), "{}", ended.all());
}
