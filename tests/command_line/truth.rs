//! `check` and `status` say whether calls work now, and what follows: each mistake is made, one line leads to its cure, and
//! that one is followed.

use crate::fixture::*;
use crate::{assert_line, lines, run, Ended};
use serde_json::json;
use simulator::{Action, Fault, Target};

fn check(proxy: &Proxy) -> Ended {
    run(proxy, &["check", "--json"])
}

/// The one line that fails; nothing else may follow from it.
#[track_caller]
pub fn only_failure(ended: &Ended) -> (String, String) {
    let failed: Vec<_> = lines(ended).into_iter().filter(|(_, status, _)| status == "fail").collect();
    assert_eq!((failed.len(), ended.code), (1, 1), "{}", ended.stdout);
    let (check, _, text) = failed.into_iter().next().unwrap();
    (check, text)
}

/// `status` must not say that all is well where a call fails.
#[track_caller]
fn assert_status_says(proxy: &Proxy, word: &str) {
    let ended = run(proxy, &["status", "--json"]);
    let portal = &ended.json()["data"]["portals"][0];
    let told = format!("{} {}", portal["why"], portal["cure"]);
    assert!(ended.code == 1 && portal["works"] == false && told.contains(word), "{word}: {}", ended.stdout);
    let ended = run(proxy, &["status"]);
    let squeezed = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(ended.code == 1 && squeezed.contains(word), "{word}: {}", ended.stdout);
}

/// Opens an address of the program, named in a line, as an administrator's browser does, and agrees.
#[track_caller]
fn install_at_the_address_in(proxy: &Proxy, line: &str) {
    let address = line.split(' ').find(|word| word.contains("/install?")).unwrap_or_else(|| panic!("{line}"));
    let (program, query) = address.split_once("/install?").unwrap();
    assert_eq!(program, "https://www.acme.test/cgi-bin/b24proxy");
    let begun = proxy.get("/install").query(query).run();
    let state = begun.header("Location").expect("a redirect").split("state=").nth(1).unwrap().to_owned();
    let cookie = begun.header("Set-Cookie").unwrap().split(';').next().unwrap().to_owned();
    let query = format!("code={}&state={state}&domain={}", proxy.portal().issue_code(1), proxy.portal().name());
    let answer = proxy.get("/callback").query(&query).header("Cookie", &cookie).run();
    assert_eq!(answer.status, 303, "{}", answer.text());
}

#[test]
fn who_a_portal_works_as_is_told_and_an_administrator_no_more_is_a_failure_until_made_one_again() {
    let proxy = Proxy::installed();
    let portal = proxy.portal().name();
    let ended = check(&proxy);
    assert_line(&ended, &portal, "ok", "works, as Анна Ёлкина/Петрова (user 1), an administrator");
    assert_line(&ended, &portal, "ok", "person's own account");
    let status = run(&proxy, &["status", "--json"]);
    assert_eq!(status.json()["data"]["portals"][0]["works"], true);
    assert_eq!(status.code, 0);
    proxy.portal().set_user_admin(1, false);
    let (name, told) = only_failure(&check(&proxy));
    assert!(name == portal && told.contains("no administrator of the portal any more"), "{told}");
    assert_status_says(&proxy, "no administrator of the portal any more");
    proxy.portal().set_user_admin(1, true);
    assert_eq!(check(&proxy).code, 0);
}

#[test]
fn dead_tokens_are_one_failure_with_the_address_at_which_installing_mends_it() {
    let proxy = Proxy::installed();
    proxy.portal().revoke_access_tokens();
    proxy.portal().revoke_refresh_tokens();
    let (portal, told) = only_failure(&check(&proxy));
    assert!(portal == proxy.portal().name() && told.contains("tokens are dead"), "{told}");
    assert_status_says(&proxy, "tokens are dead");
    install_at_the_address_in(&proxy, &told);
    assert_eq!(check(&proxy).code, 0);
    assert_eq!(run(&proxy, &["status"]).code, 0);
}

#[test]
fn the_dismissal_of_who_installed_is_told_with_the_address_to_install() {
    for error in ["user_access_error", "authorization_error"] {
        let proxy = Proxy::installed();
        let answer = Action::ErrorJson { status: 403, error: error.into(), error_description: "No access".into() };
        let fault = proxy.simulator.inject(Fault::forever(Target::Method("profile".into()), answer));
        let (_, told) = only_failure(&check(&proxy));
        assert!(told.contains("user 1, was dismissed"), "{told}");
        assert_status_says(&proxy, "was dismissed");
        proxy.simulator.remove_fault(fault);
        install_at_the_address_in(&proxy, &told);
        assert_eq!(check(&proxy).code, 0);
    }
}

#[test]
fn a_plan_without_rest_and_an_expired_licence_are_paid_for_and_nothing_else_is_done() {
    let proxy = Proxy::installed();
    let description = "REST API is available only on commercial plans";
    let answer =
        Action::ErrorJson { status: 403, error: "ACCESS_DENIED".into(), error_description: description.into() };
    let fault = proxy.simulator.inject(Fault::forever(Target::Call, answer));
    let (_, told) = only_failure(&check(&proxy));
    assert!(told.contains(description) && told.contains("pay a plan with REST"), "{told}");
    assert_status_says(&proxy, "licence has expired");
    proxy.simulator.remove_fault(fault);
    assert_eq!(check(&proxy).code, 0);

    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.portal().set_payment_required(true);
    let (_, told) = only_failure(&check(&proxy));
    assert!(told.contains("PAYMENT_REQUIRED") && told.contains("renew the licence"), "{told}");
    assert_status_says(&proxy, "PAYMENT_REQUIRED");
    proxy.portal().set_payment_required(false);
    // For so long a refusal is shared.
    std::thread::sleep(std::time::Duration::from_secs(11));
    assert_eq!(check(&proxy).code, 0, "calls work again then");
}

#[test]
fn what_is_not_reached_is_told_once_and_tokens_are_not_blamed_for_it() {
    let proxy = Proxy::installed();
    proxy.portal().stop();
    let (name, _) = only_failure(&check(&proxy));
    assert_eq!(name, format!("{}, from here", proxy.portal().name()));
    let proxy = Proxy::installed();
    proxy.simulator.stop_oauth();
    assert_eq!(only_failure(&check(&proxy)).0, "OAuth server");
    assert_line(&check(&proxy), &proxy.portal().name(), "ok", "works");
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    assert_eq!(only_failure(&check(&proxy)).0, "OAuth server");
}

#[test]
fn a_webhook_is_tried_too() {
    let proxy = Proxy::not_installed();
    let (from, to) = ("aliases = [\"acme\"]", format!("webhook = {:?}", proxy.portal().webhook_url()));
    let proxy = proxy.reconfigured(from, &to);
    assert_line(&check(&proxy), &proxy.portal().name(), "ok", "works, by an incoming webhook");
    let answer = Action::ErrorJson {
        status: 401,
        error: "INVALID_CREDENTIALS".into(),
        error_description: "Invalid request credentials".into(),
    };
    proxy.simulator.inject(Fault::forever(Target::Call, answer));
    let (_, told) = only_failure(&check(&proxy));
    assert!(told.contains("webhook") && told.contains("Make a new one"), "{told}");
    assert_status_says(&proxy, "Make a new one");
}

#[test]
fn tokens_of_another_application_are_one_failure_though_they_cannot_be_renewed_either() {
    let proxy = Proxy::installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.change_stored(|tokens| tokens["client_id"] = json!("local.other"));
    let (_, told) = only_failure(&check(&proxy));
    assert!(told.contains("another client_id"), "{told}");
}
