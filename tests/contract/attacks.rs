//! Contract sections 1, 5.4, 5.5 and 5.6 from a stranger's side. After every attack the token file's bytes are as before.

use crate::fixture::*;
use crate::visitor::*;
use serde_json::json;
use simulator::{Action, Fault, PortalOptions, Target};
use std::time::Duration;
use support::cgi::Cgi;

/// Runs an attack on an installed proxy and compares the token file's bytes.
#[track_caller]
fn attacked(attack: impl FnOnce(&Proxy)) -> Proxy {
    attacked_on(Proxy::installed(), attack)
}

#[track_caller]
fn attacked_on(proxy: Proxy, attack: impl FnOnce(&Proxy)) -> Proxy {
    let before = proxy.stored_bytes();
    attack(&proxy);
    assert_eq!(proxy.stored_bytes(), before, "the token file's bytes");
    // A pair that the database has.
    let kept = if proxy.sandbox.database().is_some() { ".kept" } else { ".json" };
    let leftovers: Vec<String> = std::fs::read_dir(proxy.sandbox.tokens())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| ![".json", ".lock", ".limits", kept].iter().any(|ending| name.ends_with(ending)))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    proxy
}

#[test]
fn a_state_issued_by_somebody_else_is_refused_and_spends_no_code() {
    attacked(|proxy| {
        let state = state("the-attackers-guess", &proxy.portal().name(), "abcdef", unix_now());
        let code = proxy.portal().issue_code(1);
        page(&proxy.callback(&format!("code={code}&state={state}"), Some("b24proxy_install=abcdef")), 403);
        assert_eq!(proxy.asked_oauth(), 0);
    });
}

#[test]
fn a_state_begun_in_the_attackers_browser_does_not_work_in_the_victims() {
    attacked(|proxy| {
        let (attackers, victims) = (proxy.begin(), proxy.begin());
        let query = attackers.query(&proxy.portal().issue_code(1));
        page(&proxy.callback(&query, Some(&victims.cookie)), 403);
        page(&proxy.callback(&query, None), 403);
        assert_eq!(proxy.asked_oauth(), 0);
    });
}

#[test]
fn a_state_of_one_portal_installs_no_other() {
    let proxy = Proxy::installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let section = format!("[portals.\"{}\"]\n\n[security]", other.name());
    let proxy = attacked_on(proxy.reconfigured("[security]", &section), |proxy| {
        // The state names the other portal, the code is this one's, and the other way round.
        let begun = proxy.begin_at(&other.name());
        page(&proxy.come_back(&begun, &proxy.portal().issue_code(1)), 403);
        page(&proxy.come_back(&proxy.begin(), &other.issue_code(1)), 403);
        // The portal's name exchanged within a state that is good otherwise.
        let stem = |name: String| name.replace(':', "_");
        let state = begun.state.replace(&stem(other.name()), &stem(proxy.portal().name()));
        assert_ne!(state, begun.state);
        let asked = proxy.asked_oauth();
        let query = format!("code={}&state={state}", proxy.portal().issue_code(1));
        page(&proxy.callback(&query, Some(&begun.cookie)), 403);
        assert_eq!(proxy.asked_oauth(), asked);
    });
    assert_eq!(proxy.sandbox.token_file(&format!("{}.json", other.name().replace(':', "_"))), None);
}

#[test]
fn a_replayed_callback_changes_nothing() {
    let proxy = Proxy::not_installed();
    let begun = proxy.begin();
    let code = proxy.portal().issue_code(1);
    page(&proxy.come_back(&begun, &code), 200);
    attacked_on(proxy, |proxy| {
        page(&proxy.come_back(&begun, &code), 400);
        page(&proxy.callback(&begun.query(&code), None), 403);
    });
}

#[test]
fn forged_callbacks_reach_nobody() {
    attacked(|proxy| {
        let good = proxy.begin();
        let name = proxy.portal().name().replace(':', "_");
        for state in [
            String::new(),
            "~".into(),
            "~~~".into(),
            name.clone(),
            format!("{name}~99999999999~00"),
            format!("{name}~{}~{}", unix_now() + 60, "0".repeat(64)),
            format!("{name}~-1~"),
            format!("{}x", good.state),
            good.state[..good.state.len() - 2].to_owned(),
            "%00%ff%fe".into(),
            "a".repeat(5000),
        ] {
            let query = format!("code=c&state={state}");
            page(&proxy.callback(&query, Some(&good.cookie)), 403);
        }
        // Of a name given twice nothing is chosen.
        let twice = format!("state=x&{}", good.query("c"));
        assert!(matches!(proxy.callback(&twice, Some(&good.cookie)).status, 400 | 403));
        assert_eq!(proxy.simulator.ledger().all_connections(), 0);
    });
}

#[test]
fn forged_installation_events_never_reach_the_oauth_server() {
    attacked(|proxy| {
        let good = proxy.portal().event_form("ONAPPINSTALL");
        let forms = [
            format!("event=ONAPPINSTALL&auth[domain]={}", proxy.portal().name()),
            format!(
                "event=onappinstall&auth[domain]={}&auth[access_token]=x&auth[refresh_token]=y",
                proxy.portal().name()
            ),
            good.replace("event=ONAPPINSTALL", "event=ONAPPINSTALL&auth%5Baccess_token%5D=x")
                .split('&')
                .filter(|f| !f.starts_with("auth%5Baccess_token%5D=") || f.ends_with("=x"))
                .collect::<Vec<_>>()
                .join("&"),
        ];
        for form in &forms {
            assert_failure(&proxy.post_event(form), 403, "forbidden");
        }
        assert_eq!(proxy.asked_oauth(), 0);
    });
}

#[test]
fn an_event_that_points_elsewhere_is_believed_in_nothing() {
    let elsewhere = Proxy::installed();
    attacked(|proxy| {
        let other = elsewhere.portal();
        // Another Bitrix24's tokens, with this portal's name on them.
        let form = other
            .event_form("ONAPPINSTALL")
            .replace(&other.name().replace(':', "%3A"), &proxy.portal().name().replace(':', "%3A"));
        assert_failure(&proxy.post_event(&form), 403, "forbidden");
        // This portal's tokens, with another address to send them to.
        let form = format!(
            "{}&auth%5Bclient_endpoint%5D={url}&auth%5Bserver_endpoint%5D={url}",
            proxy.portal().event_form_of("ONAPPINSTALL", 2),
            url = other.client_endpoint().replace(':', "%3A").replace('/', "%2F")
        );
        assert_failure(&proxy.post_event(&form), 403, "forbidden");
        assert_eq!(proxy.asked_oauth(), 0);
    });
    assert_eq!(elsewhere.simulator.ledger().all_connections(), 0, "no request to an address that a stranger posts");
}

#[test]
fn forged_removals_change_nothing() {
    let proxy = Proxy::not_installed();
    page(&proxy.open_as(1), 200);
    attacked_on(proxy, |proxy| {
        let form = proxy.portal().event_form("ONAPPUNINSTALL");
        let token = proxy.portal().application_token();
        assert_failure(&proxy.post_event(&form.replace(&token, "")), 403, "forbidden");
        assert_failure(&proxy.post_event(&form.replace(&token, &"0".repeat(32))), 403, "forbidden");
        assert_eq!(proxy.post_event(&form).status, 409, "even with the right one, while the tokens work");
    });
}

#[test]
fn a_second_bitrix24_under_a_known_name_gets_in_by_no_way() {
    let proxy = Proxy::not_installed();
    page(&proxy.open_as(1), 200);
    attacked_on(proxy, |proxy| {
        proxy.portal().uninstall();
        proxy.portal().set_member_id("0123456789abcdef0123456789abcdef");
        page(&proxy.install_in_browser(1), 409);
        page(&proxy.open_as(1), 409);
        assert_failure(&proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")), 409, "member_mismatch");
    });
}

#[test]
fn somebody_who_is_no_administrator_gets_in_by_no_way() {
    attacked(|proxy| {
        proxy.portal().uninstall();
        page(&proxy.install_in_browser(2), 403);
        let asked = proxy.asked_oauth();
        for _ in 0..7 {
            page(&proxy.open_as(2), 403);
            assert_failure(&proxy.post_event(&proxy.portal().event_form_of("ONAPPINSTALL", 2)), 403, "forbidden");
        }
        assert_eq!(proxy.asked_oauth(), asked, "nor uses up the attempts of one who is");
    });
}

#[test]
fn an_employees_refresh_token_beside_an_administrators_access_token_is_refused() {
    attacked(|proxy| {
        proxy.portal().uninstall();
        let (administrator, employee) = (proxy.portal().frame_form(1), proxy.portal().frame_form(2));
        let mut mixed = administrator.clone();
        mixed.body = administrator.body.replace(&administrator.refresh_token, &employee.refresh_token);
        assert_ne!(mixed.body, administrator.body);
        page(&proxy.opening(&mixed).run(), 403);

        let token = |form: &str, name: &str| {
            let value = form.split(&format!("auth%5B{name}%5D=")).nth(1).unwrap();
            value.split('&').next().unwrap().to_owned()
        };
        let (admin, other) =
            (proxy.portal().event_form("ONAPPINSTALL"), proxy.portal().event_form_of("ONAPPINSTALL", 2));
        let mixed = admin.replace(&token(&admin, "refresh_token"), &token(&other, "refresh_token"));
        assert_ne!(mixed, admin);
        assert_failure(&proxy.post_event(&mixed), 403, "forbidden");
    });
}

#[test]
fn another_portals_refresh_token_beside_this_portals_access_token_is_refused() {
    attacked(|proxy| {
        proxy.portal().uninstall();
        let other = proxy.simulator.add_portal(PortalOptions::default());
        let (ours, theirs) = (proxy.portal().frame_form(1), other.frame_form(1));
        let mut mixed = ours.clone();
        mixed.body = ours.body.replace(&ours.refresh_token, &theirs.refresh_token);
        page(&proxy.opening(&mixed).run(), 403);
        assert_eq!(proxy.simulator.ledger().connections(&other.name()), 0);
    });
}

#[test]
fn an_application_token_of_an_employee_does_not_replace_the_stored_one() {
    let proxy = Proxy::not_installed();
    page(&proxy.open_as(1), 200);
    attacked_on(proxy, |proxy| {
        let mut form = proxy.portal().frame_form(2);
        form.body = form.body.replace(&proxy.portal().application_token(), "attackers-application-token");
        page(&proxy.opening(&form).run(), 200);
        proxy.portal().uninstall();
        let mut form = proxy.portal().frame_form(2);
        form.body = form.body.replace(&proxy.portal().application_token(), "attackers-application-token");
        page(&proxy.opening(&form).run(), 403);
    });
}

#[test]
fn the_seventh_attempt_in_a_minute_is_429_and_does_not_reach_the_oauth_server() {
    attacked(|proxy| {
        let begun = proxy.begin();
        for _ in 0..6 {
            page(&proxy.come_back(&begun, "junk"), 400);
        }
        assert_eq!(proxy.asked_oauth(), 6);
        let answer = proxy.come_back(&begun, &proxy.portal().issue_code(1));
        assert_says(&page(&answer, 429), &["Too many attempts"]);
        let wait: u64 = answer.header("Retry-After").expect("Retry-After").parse().unwrap();
        assert!((50..=60).contains(&wait), "{wait}");
        // All ways in together.
        let event = proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL"));
        assert_failure(&event, 429, "rate_limited");
        assert!(event.header("Retry-After").is_some() && event.json()["retry_after"].as_u64().unwrap() > 50);
        assert_eq!(proxy.asked_oauth(), 6);
        assert_eq!(proxy.call("profile", json!({})).status, 200, "1C calls on");
    });
}

#[test]
fn attempts_are_forgotten_after_a_minute_and_counted_for_each_portal() {
    let proxy = Proxy::installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let section = format!("[portals.\"{}\"]\n\n[security]", other.name());
    let proxy = proxy.reconfigured("[security]", &section);
    let attempts = |ago: i64| {
        let notes = json!({ "refresh": null, "attempts": vec![unix_now() - ago; 6] });
        proxy.sandbox.write_token_file(&format!("{}.lock", proxy.stem()), &notes.to_string());
    };
    attempts(40);
    let answer = proxy.install_in_browser(1);
    page(&answer, 429);
    let wait: u64 = answer.header("Retry-After").unwrap().parse().unwrap();
    assert!((15..=20).contains(&wait), "{wait}");
    let begun = proxy.begin_at(&other.name());
    page(&proxy.come_back(&begun, &other.issue_code(1)), 200);
    attempts(61);
    page(&proxy.install_in_browser(1), 200);
    // A clock that was set back must not lock anybody out.
    attempts(-3600);
    page(&proxy.install_in_browser(1), 200);
}

#[test]
fn a_flood_from_all_sides_at_once_makes_no_more_than_six_attempts() {
    attacked(|proxy| {
        let begun = proxy.begin();
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(|| proxy.come_back(&begun, "junk").status)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(proxy.asked_oauth(), 6, "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 400 | 429)), "{statuses:?}");
    });
}

#[test]
fn posted_junk_is_tried_at_the_portal_and_never_at_the_oauth_server() {
    attacked(|proxy| {
        proxy.portal().uninstall();
        let genuine = proxy.portal().frame_form(1);
        for _ in 0..10 {
            let mut junk = genuine.clone();
            junk.body = genuine.body.replace(&genuine.access_token, &"j".repeat(70));
            page(&proxy.opening(&junk).run(), 403);
            let event = format!(
                "event=ONAPPINSTALL&auth[domain]={}&auth[access_token]=junk&auth[refresh_token]={}",
                proxy.portal().name(),
                genuine.refresh_token
            );
            assert_failure(&proxy.post_event(&event), 403, "forbidden");
        }
        assert_eq!(proxy.asked_oauth(), 0);
        assert!(proxy.portal().is_live(&genuine.refresh_token), "the posted one was not spent");
        assert!(!proxy.simulator.ledger().portals_saw(&genuine.refresh_token), "nor shown to the portal");
    });
}

#[test]
fn a_flood_of_posted_junk_leaves_clients_their_calls() {
    attacked(|proxy| {
        let mut junk = proxy.portal().frame_form(1);
        junk.body = junk.body.replace(&junk.access_token, "junk");
        let refused = (0..80).filter(|_| proxy.opening(&junk).run().status == 429).count();
        assert!(refused > 20, "{refused}");
        assert!(proxy.simulator.ledger().calls("profile") < 60);
        let answer = proxy.call("profile", json!({}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.elapsed < Duration::from_secs(1), "{:?}", answer.elapsed);
    });
}

#[test]
fn an_empty_posted_token_asks_nobody() {
    attacked(|proxy| {
        let query = format!("DOMAIN={}", proxy.portal().name());
        page(&Cgi::new(&proxy.sandbox).query(&query).form("AUTH_ID=&REFRESH_ID=x").run(), 403);
        page(&Cgi::new(&proxy.sandbox).form("AUTH_ID=x&REFRESH_ID=x").run(), 404);
        assert_eq!(proxy.simulator.ledger().all_connections(), 0);
    });
}

#[test]
fn markup_in_an_address_is_nowhere_markup_on_a_page_and_in_no_header() {
    attacked(|proxy| {
        let begun = proxy.begin();
        for markup in [
            "%3Cscript%3Ealert(1)%3C/script%3E",
            "\"><img src=x onerror=alert(1)>",
            "%22%3E%3Csvg/onload=alert(1)%3E",
            "x%0d%0aSet-Cookie:%20evil=1",
            "javascript:alert(1)//",
            "{{7*7}}",
        ] {
            let cookie = format!("b24proxy_install={markup}");
            // The name of a portal that is not configured is repeated, escaped.
            for answer in [
                proxy.get("/install").query(&format!("portal={markup}")).run(),
                proxy.get("/install").query(&format!("portal={markup}&LANG={markup}")).run(),
                proxy.get("").query(&format!("portal={markup}")).run(),
                Cgi::new(&proxy.sandbox)
                    .query(&format!("DOMAIN={markup}&LANG={markup}"))
                    .form(&format!("AUTH_ID={markup}"))
                    .run(),
            ] {
                let (headers, text) = (format!("{:?}", answer.headers), answer.text());
                assert_eq!(answer.status, 404, "{text}");
                for trace in ["<script>", "<img", "<svg", "\">x", "\n\nSet-Cookie", "\r"] {
                    assert!(!text.contains(trace), "{trace} of {markup}: {text}");
                }
                for trace in ["alert(1)", "evil=1", "onload", "7*7"] {
                    assert!(!headers.contains(trace), "{trace} of {markup}: {headers}");
                }
            }
            let answers = [
                proxy.get("/callback").query(&format!("error={markup}&state={markup}")).run(),
                proxy.get("/callback").query(&format!("code={markup}&state={markup}&domain={markup}")).run(),
                proxy.callback(
                    &format!("error={markup}&error_description={markup}&state={}", begun.state),
                    Some(&begun.cookie),
                ),
                proxy.callback(&format!("code=x&state={}", begun.state), Some(&cookie)),
                proxy.get("").query(&format!("installed={markup}")).run(),
                proxy.get("").query(&format!("installed={markup}&try={markup}&LANG={markup}")).run(),
                proxy.post_event(&format!("event={markup}")),
                proxy.post_event(&format!("event=ONAPPINSTALL&auth[domain]={markup}")),
            ];
            for answer in answers {
                let shown = format!("{:?} {}", answer.headers, answer.text());
                for trace in ["alert(1)", "evil=1", "svg/onload", "7*7"] {
                    assert!(!shown.contains(trace), "{trace} of {markup}: {shown}");
                }
                assert!(answer.status >= 400 || answer.text() == "{\"status\":\"ok\"}", "{}", answer.text());
            }
        }
        assert_eq!(proxy.asked_oauth(), 0);
    });
}

#[test]
fn what_bitrix24_itself_says_is_escaped_on_a_page() {
    attacked(|proxy| {
        proxy.simulator.inject(Fault::once(
            Target::Token,
            Action::ErrorJson {
                status: 400,
                error: "<script>alert(1)</script>".into(),
                error_description: "\"><img src=x onerror=alert(2)>".into(),
            },
        ));
        let text = page(&proxy.install_in_browser(1), 502);
        assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
        assert_says(&text, &["&#60;script&#62;"]);
    });
}

#[test]
fn a_page_of_another_site_cannot_use_the_credentials_that_a_browser_remembers() {
    // "1c:a-client-token-for-tests"
    let basic = "Basic MWM6YS1jbGllbnQtdG9rZW4tZm9yLXRlc3Rz";
    attacked(|proxy| {
        let call = json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": "x"}}}).to_string();
        for (name, value) in [
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
            ("Origin", "https://www.acme.test.evil.example"),
            ("Origin", "http://www.acme.test"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
        ] {
            let hostile = |request: Cgi<'_>| request.header("Authorization", basic).header(name, value).run();
            assert_failure(&hostile(proxy.bare_request(call.clone())), 403, "forbidden");
            assert_failure(
                &hostile(proxy.bare_request(call.clone()).header("Content-Type", "text/plain")),
                403,
                "forbidden",
            );
            let status = hostile(proxy.get("/status").header("Accept", "text/html"));
            page(&status, 403);
            assert_failure(&hostile(proxy.get("/status")), 403, "forbidden");
            assert!(!status.text().contains(&proxy.portal().name()), "{}", status.text());
            assert_eq!(status.header("Access-Control-Allow-Origin"), None);
        }
        assert_eq!(proxy.simulator.ledger().all_connections(), 0);
        let own = proxy.get("/status").header("Authorization", basic).header("Sec-Fetch-Site", "none").run();
        assert_eq!(own.status, 200, "the person at the browser may look: {}", own.text());
        let own = proxy.bare_request(json!({"method": "profile"}).to_string()).header("Authorization", basic);
        assert_eq!(own.header("Origin", "https://www.acme.test").run().status, 200);
    });
}

/// An installation has its code exchanged, and before it can store the pair, a refresh takes the lock and holds it for so long.
fn refresh_between_exchange_and_storing(proxy: &Proxy, held: Duration) {
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.simulator.inject(Fault::once(Target::Token, Action::HangAfter));
    std::thread::scope(|scope| {
        let installation = scope.spawn(|| proxy.install_in_browser(1));
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
        proxy.simulator.inject(Fault::once(Target::Token, Action::DelayAnswer(held)));
        scope.spawn(|| proxy.call("profile", json!({})));
        assert!(proxy.simulator.wait_for(Duration::from_secs(10), |ledger| ledger.refreshes() == 1));
        proxy.simulator.release();
        page(&installation.join().unwrap(), 200);
    });
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.exchanges(), ledger.refreshes(), ledger.spent_presented()), (1, 1, 0));
    assert!(proxy.portal().is_live(proxy.stored()["refresh_token"].as_str().unwrap()));
    assert_eq!(proxy.stored()["refreshed_at"], 0, "the installation's pair is the last");
    assert_eq!(proxy.call("profile", json!({})).status, 200);
}

#[test]
fn a_refresh_that_overtakes_an_installation_leaves_a_live_and_whole_pair() {
    refresh_between_exchange_and_storing(&Proxy::not_installed(), Duration::from_millis(800));
}

#[test]
fn a_pair_in_hand_is_stored_even_if_a_refresh_holds_the_lock_for_longer_than_max_wait() {
    let proxy = Proxy::not_installed().reconfigured("max_wait = 5", "max_wait = 1");
    refresh_between_exchange_and_storing(&proxy, Duration::from_secs(3));
}

#[test]
fn an_installation_that_comes_while_a_refresh_is_under_way_leaves_a_live_and_whole_pair() {
    let proxy = Proxy::not_installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.simulator.inject(Fault::once(Target::Token, Action::DelayAnswer(Duration::from_millis(1200))));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| proxy.call("profile", json!({})));
        assert!(proxy.simulator.wait_for(Duration::from_secs(5), |ledger| ledger.refreshes() == 1));
        page(&proxy.install_in_browser(1), 200);
        assert_eq!(call.join().unwrap().status, 200);
    });
    assert!(proxy.portal().is_live(proxy.stored()["refresh_token"].as_str().unwrap()));
    assert_eq!(proxy.stored()["refreshed_at"], 0, "the installation's pair is the last");
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    assert_eq!(proxy.simulator.ledger().spent_presented(), 0);
}

#[test]
fn installations_at_the_same_moment_leave_one_live_and_whole_pair() {
    let proxy = Proxy::not_installed();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| page(&proxy.install_in_browser(1), 200));
            scope.spawn(|| assert_eq!(proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")).status, 200));
        }
    });
    assert!(proxy.portal().is_live(proxy.stored()["refresh_token"].as_str().unwrap()));
    assert_eq!(proxy.call("profile", json!({})).status, 200);
}

#[test]
fn no_secret_is_shown_on_a_page_or_in_the_log_whatever_happens() {
    attacked(|proxy| {
        let code = proxy.portal().issue_code(1);
        let begun = proxy.begin();
        let mut answers = vec![
            proxy.callback(&begun.query(&code), None),
            proxy.open_as(1),
            proxy.open_as(2),
            proxy.post_event(&proxy.portal().event_form_of("ONAPPINSTALL", 2)),
            proxy.post_event(&proxy.portal().event_form("ONAPPUNINSTALL")),
            proxy.post_event(&proxy.portal().event_form("ONAPPUSERREADY")),
            proxy.get("/status").bearer(TOKEN).run(),
        ];
        proxy.simulator.inject(Fault::once(Target::Token, Action::Html500));
        answers.push(proxy.come_back(&begun, &code));
        proxy.simulator.inject(Fault::once(Target::Token, Action::CloseMidAnswer));
        answers.push(proxy.come_back(&begun, &proxy.portal().issue_code(1)));
        proxy.simulator.inject(Fault::once(Target::Token, Action::TruncateJson));
        answers.push(proxy.come_back(&begun, &proxy.portal().issue_code(1)));
        proxy.simulator.stop_oauth();
        answers.push(proxy.come_back(&begun, &proxy.portal().issue_code(1)));
        for answer in &answers {
            proxy.assert_no_secret(answer);
            assert!(!answer.text().contains(&code) && !answer.stderr.contains(&code));
            assert!(!answer.stderr.contains(begun.cookie.split('=').nth(1).unwrap()), "{}", answer.stderr);
        }
    });
}
