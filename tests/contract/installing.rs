//! Contract sections 2, 5.6 and 7: the four ways to install, and every page an administrator may see on them.

use crate::fixture::*;
use crate::visitor::*;
use simulator::{Action, Fault, Options, PortalOptions, Target};
use std::time::Duration;
use support::database::{shared, Kind};

/// All of section 7, as an installation just now by this user of the simulator's portal leaves it.
#[track_caller]
fn assert_stored(proxy: &Proxy, user: u64, application_token: &str) {
    let tokens = proxy.stored();
    let portal = proxy.portal();
    let text = |name: &str| tokens[name].as_str().unwrap_or_else(|| panic!("{name} in {tokens}")).to_owned();
    assert_eq!(text("member_id"), portal.member_id());
    assert_eq!(text("domain"), proxy.simulator.oauth_url().split("//").nth(1).unwrap());
    assert_eq!(text("client_endpoint"), portal.client_endpoint());
    assert_eq!(text("server_endpoint"), format!("{}/rest/", proxy.simulator.oauth_url()));
    assert_eq!(text("access_token").len(), 70);
    assert!(portal.is_live(&text("refresh_token")), "the stored refresh token is live");
    assert_eq!(text("scope"), "crm,catalog,sale,task,user");
    assert_eq!(text("client_id"), portal.key_pair().client_id);
    assert_eq!(text("application_token"), application_token);
    assert_eq!(tokens["user_id"], user);
    assert_eq!(tokens["refreshed_at"], 0);
    let near = |name: &str, expected: i64| (tokens[name].as_i64().unwrap() - expected).abs() <= 5;
    assert!(near("expires_at", unix_now() + 3600), "{tokens}");
    assert!(near("installed_at", unix_now()), "{tokens}");
    let answer = proxy.call("profile", serde_json::json!({}));
    assert_eq!(answer.status, 200, "1C can call: {}", answer.text());
}

#[test]
fn install_redirects_to_the_portals_authorization_page_with_client_id_and_state_only() {
    let proxy = Proxy::not_installed();
    let begun = proxy.begin();
    let expected =
        format!("{}/oauth/authorize/?client_id={}&state=", proxy.portal().url(), proxy.simulator.client_id());
    assert!(begun.location.starts_with(&expected), "{}", begun.location);
    assert!(!begun.location.contains(&proxy.simulator.client_secret()));
    assert!(!begun.location.contains(begun.cookie.split('=').nth(1).unwrap()), "the cookie is not in the address");
    assert_eq!(proxy.simulator.ledger().all_connections(), 0, "nobody was asked yet");
}

#[test]
fn a_portal_may_be_named_by_alias_scheme_and_any_case() {
    let proxy = Proxy::not_installed();
    for name in ["acme", "ACME", "https://127.0.0.1:PORT/", "127.0.0.1:PORT"] {
        let port = proxy.portal().name().replace("127.0.0.1:", "");
        let begun = proxy.begin_at(&name.replace("PORT", &port));
        assert!(begun.location.starts_with(&proxy.portal().url()), "{}", begun.location);
    }
}

#[test]
fn the_states_cookie_is_http_only_lax_and_secure_under_https() {
    let proxy = Proxy::not_installed();
    let cookie = proxy.begin().set_cookie;
    assert_says(&cookie, &["; Path=/cgi-bin/b24proxy;", "; HttpOnly", "; SameSite=Lax", "; Secure", "; Max-Age=600"]);
    assert!(!cookie.contains("Domain"), "{cookie}");
}

#[test]
fn the_states_cookie_is_for_the_programs_own_path_alone_and_is_taken_back_there() {
    for (address, path) in [
        ("https://www.acme.test/cgi-bin/b24proxy/", "/cgi-bin/b24proxy"),
        ("https://www.acme.test/~u/b24.cgi", "/~u/b24.cgi"),
        ("https://www.acme.test", "/"),
    ] {
        let proxy = Proxy::not_installed().reconfigured("https://www.acme.test/cgi-bin/b24proxy", address);
        let path = format!("; Path={path};");
        assert_says(&proxy.begin().set_cookie, &[&path]);
        let begun = proxy.begin();
        let back = proxy.arrived(&begun.query(&proxy.portal().issue_code(1)), Some(&begun.cookie));
        assert_says(back.header("Set-Cookie").unwrap(), &[&path, "Max-Age=0"]);
    }
    let without = "redirect_uri  = \"https://www.acme.test/cgi-bin/b24proxy\"\n";
    let proxy = Proxy::not_installed().reconfigured(without, "");
    assert_says(&proxy.begin().set_cookie, &["; Path=/;"]);
}

#[test]
fn the_states_cookie_is_not_secure_under_http_where_browsers_would_drop_it() {
    let proxy = Proxy::not_installed().reconfigured("https://www.acme.test", "http://www.acme.test");
    let cookie = proxy.begin().set_cookie;
    assert_says(&cookie, &["; HttpOnly", "; SameSite=Lax"]);
    assert!(!cookie.contains("Secure"), "{cookie}");
}

#[test]
fn the_way_back_stores_everything_and_takes_the_cookie_back() {
    let proxy = Proxy::not_installed();
    let begun = proxy.begin();
    let back = proxy.arrived(&begun.query(&proxy.portal().issue_code(1)), Some(&begun.cookie));
    assert_says(back.header("Set-Cookie").unwrap(), &["b24proxy_install=;", "Max-Age=0"]);
    assert_eq!(back.header("Referrer-Policy"), Some("no-referrer"));
    proxy.assert_no_secret(&back);
    let answer = proxy.followed(back);
    let text = page(&answer, 200);
    assert_says(&text, &["b24proxy is installed", &proxy.portal().name(), "Анна Ёлкина", "(ID 1)", "crm, catalog"]);
    assert_says(
        &text,
        &["HTTPСоединение(&#34;www.acme.test&#34;, , , , , 60, Защита);", "Новый СертификатыУдостоверяющихЦентровОС"],
    );
    assert_eq!(text.matches("<script nonce=").count(), 1, "it copies the request");
    assert_eq!(text.matches("<script").count(), 1);
    assert!(policy(&answer).contains("frame-ancestors 'none'"));
    assert_stored(&proxy, 1, "");
    assert_eq!(proxy.simulator.ledger().exchanges(), 1);
    assert!(!proxy.simulator.ledger().portals_saw(&proxy.simulator.client_secret()));
    proxy.assert_no_secret(&answer);
}

#[test]
fn the_way_back_works_at_the_root_and_without_path_info() {
    let proxy = Proxy::not_installed();
    let begun = proxy.begin();
    let query = begun.query(&proxy.portal().issue_code(1));
    page(&proxy.followed(proxy.get("").query(&query).header("Cookie", &begun.cookie).run()), 200);
    assert_stored(&proxy, 1, "");

    let answer = proxy.get("").query(&format!("portal={}", proxy.portal().name())).run();
    assert_eq!(answer.status, 302, "GET /?portal= is /install");
    let begun = proxy.begin();
    let query = begun.query(&proxy.portal().issue_code(1));
    let uri = format!("/cgi-bin/b24proxy/callback?{query}");
    let answer = proxy.get("").query(&query).env("REQUEST_URI", &uri).header("Cookie", &begun.cookie).run();
    page(&proxy.followed(answer), 200);
}

#[test]
fn a_second_installation_replaces_tokens_that_work() {
    let proxy = Proxy::installed();
    proxy.change_stored(|tokens| tokens["application_token"] = "kept-application-token".into());
    let before = proxy.stored();
    page(&proxy.install_in_browser(1), 200);
    assert_ne!(proxy.stored()["refresh_token"], before["refresh_token"]);
    assert_stored(&proxy, 1, "kept-application-token");
}

#[test]
fn the_portals_own_key_pair_is_used_where_it_has_one() {
    let portal = PortalOptions { own_key_pair: true, ..PortalOptions::default() };
    let proxy = Proxy::with(Options { portal, ..Options::default() });
    let pair = proxy.portal().key_pair();
    let section = format!("client_id = \"{}\"\nclient_secret = \"{}\"\naliases", pair.client_id, pair.client_secret);
    let proxy = proxy.reconfigured("aliases", &section);
    page(&proxy.install_in_browser(1), 200);
    assert_stored(&proxy, 1, "");
}

#[test]
fn the_application_opened_in_bitrix24_is_installed_and_ends_the_installation() {
    let proxy = Proxy::not_installed();
    let form = proxy.portal().frame_form(1);
    let answer = proxy.opening(&form).run();
    let text = page(&answer, 200);
    assert_says(&text, &["b24proxy установлен", "BX24.init(", "BX24.installFinish()"]);
    assert_says(&text, &["src=\"https://api.bitrix24.com/api/v1/\""]);
    assert_stored(&proxy, 1, &proxy.portal().application_token());
    assert_ne!(proxy.stored()["access_token"], form.access_token.as_str(), "our own pair, not the posted one");
    assert!(policy(&answer).ends_with(&format!("frame-ancestors {}", proxy.portal().url())), "{}", policy(&answer));
    proxy.assert_no_secret(&answer);
}

#[test]
fn scripts_run_on_the_frame_page_only_by_the_nonce_of_this_answer() {
    let proxy = Proxy::installed();
    let nonce = |answer: &support::cgi::Answer| {
        let policy = policy(answer).to_owned();
        policy.split("script-src 'nonce-").nth(1).expect("a nonce").split('\'').next().unwrap().to_owned()
    };
    let (one, two) = (proxy.open_as(1), proxy.open_as(1));
    assert_ne!(nonce(&one), nonce(&two));
    let text = page(&one, 200);
    assert_eq!(text.matches("<script").count(), 2);
    assert_eq!(text.matches(&format!("<script nonce=\"{}\"", nonce(&one))).count(), 2);
}

#[test]
fn bitrix24s_own_event_installs_without_a_browser() {
    let proxy = Proxy::not_installed();
    let answer = proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_stored(&proxy, 1, &proxy.portal().application_token());
    proxy.assert_no_secret(&answer);
}

#[test]
fn bitrix24s_own_event_replaces_tokens_that_work() {
    let proxy = Proxy::installed();
    let before = proxy.stored();
    assert_eq!(proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")).status, 200);
    assert_ne!(proxy.stored()["refresh_token"], before["refresh_token"]);
    assert_stored(&proxy, 1, &proxy.portal().application_token());
}

#[test]
fn the_command_line_names_the_address_to_install_at() {
    let proxy = Proxy::not_installed();
    let run = |arguments: &[&str]| proxy.sandbox.command_line(arguments).output().unwrap();
    let output = run(&["install-url", "acme"]);
    assert!(output.status.success());
    let url = String::from_utf8(output.stdout).unwrap();
    assert_eq!(url, format!("https://www.acme.test/cgi-bin/b24proxy/install?portal={}\n", proxy.portal().name()));
    let (path, query) = url.trim().split_once('?').unwrap();
    assert!(path.ends_with("/install"));
    assert_eq!(proxy.get("/install").query(query).run().status, 302);

    let unknown = run(&["install-url", "other.bitrix24.ru"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert_says(&String::from_utf8_lossy(&unknown.stderr), &["not configured"]);
    assert_eq!(run(&["install-url"]).status.code(), Some(2));
}

#[test]
fn plain_http_serves_all_ways_on_a_closed_network() {
    let proxy = Proxy::with(Options { https: false, ..Options::default() });
    assert!(proxy.begin().location.starts_with("http://"));
    page(&proxy.install_in_browser(1), 200);
    assert_stored(&proxy, 1, "");
    assert_eq!(proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")).status, 200);
    let answer = proxy.open_as(1);
    page(&answer, 200);
    assert!(policy(&answer).ends_with(&format!("frame-ancestors {}", proxy.portal().url())));
}

#[test]
fn an_application_that_works_already_is_opened_with_200_and_nothing_changes() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    let answer = proxy.open_as(1);
    assert_says(&page(&answer, 200), &["уже установлен и работает", "BX24.installFinish()"]);
    assert_eq!(proxy.stored_bytes(), before);
    assert_eq!(proxy.asked_oauth(), 0);
}

#[test]
fn an_employee_who_opens_a_working_application_changes_nothing() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    page(&proxy.open_as(2), 200);
    assert_eq!(proxy.stored_bytes(), before);
    assert_eq!(proxy.asked_oauth(), 0);
}

#[test]
fn an_administrator_who_opens_the_application_replaces_tokens_that_are_dead() {
    let proxy = Proxy::installed();
    proxy.portal().uninstall();
    page(&proxy.open_as(1), 200);
    assert_stored(&proxy, 1, &proxy.portal().application_token());
}

#[test]
fn an_administrator_who_opens_the_application_takes_over_from_one_who_may_not_use_it_any_more() {
    let proxy = Proxy::installed();
    let before = proxy.stored();
    let refusal = || Action::ErrorJson {
        status: 403,
        error: "user_access_error".into(),
        error_description: "The user does not have access to the application".into(),
    };
    // The first `profile` is the one who opens, the second the one who installed.
    proxy.portal().inject(Fault::once(Target::Method("profile".into()), refusal()).after(1));
    page(&proxy.open_as(2), 403);
    assert_eq!(proxy.stored(), before);
    proxy.portal().inject(Fault::once(Target::Method("profile".into()), refusal()).after(1));
    page(&proxy.open_as(1), 200);
    assert_ne!(proxy.stored()["refresh_token"], before["refresh_token"]);
}

#[test]
fn a_portal_that_cannot_be_asked_about_the_stored_tokens_changes_nothing() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    for action in [Action::Html500, Action::CloseAfter, Action::TruncateJson] {
        proxy.portal().inject(Fault::once(Target::Method("profile".into()), action).after(1));
        page(&proxy.open_as(1), 502);
    }
    assert_eq!((proxy.stored_bytes(), proxy.asked_oauth()), (before, 0));
}

#[test]
fn a_token_whose_time_is_over_still_works_if_it_can_be_refreshed() {
    let proxy = Proxy::not_installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    assert_says(&page(&proxy.open_as(2), 200), &["уже установлен"]);
    assert_eq!(proxy.stored()["user_id"], 1);
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}

#[test]
fn an_employee_cannot_install_in_any_way() {
    let proxy = Proxy::not_installed();
    assert_says(&page(&proxy.install_in_browser(2), 403), &["An administrator of the portal is needed"]);
    let answer = proxy.open_as(2);
    let text = page(&answer, 403);
    assert_says(&text, &["Нужен администратор портала"]);
    assert!(!text.contains("<a "), "in a frame the application is opened again instead");
    assert!(!text.contains("installFinish"), "a failed installation is not finished");
    assert!(policy(&answer).ends_with(&format!("frame-ancestors {}", proxy.portal().url())));
    assert_failure(&proxy.post_event(&proxy.portal().event_form_of("ONAPPINSTALL", 2)), 403, "forbidden");
    assert_eq!(proxy.stored_bytes(), None);
}

#[test]
fn a_state_is_needed_and_checked_before_the_code_is_spent() {
    let proxy = Proxy::not_installed();
    let begun = proxy.begin();
    let code = proxy.portal().issue_code(1);
    for (query, cookie) in [
        (format!("code={code}"), Some(begun.cookie.as_str())),
        (format!("code={code}&state="), Some(begun.cookie.as_str())),
        (begun.query(&code), None),
        (begun.query(&code), Some("b24proxy_install=0123456789abcdef0123456789abcdef")),
        (begun.query(&code), Some("b24proxy_install=")),
        (begun.query(&code), Some("other=1")),
    ] {
        let text = page(&proxy.callback(&query, cookie), 403);
        let again = format!(
            "href=\"https://www.acme.test/cgi-bin/b24proxy/install?portal={}\">Begin again</a>",
            proxy.portal().name()
        );
        assert_says(&text, &["This link is no longer valid", "/install?portal=", &again]);
    }
    assert_eq!(proxy.simulator.ledger().exchanges(), 0);
    page(&proxy.come_back(&begun, &code), 200);
}

#[test]
fn a_state_lives_ten_minutes() {
    let proxy = Proxy::not_installed();
    let cookie = "0123456789abcdef";
    let back = |age: i64| {
        let code = proxy.portal().issue_code(1);
        let query = format!("code={code}&state={}", state_of_age(&proxy, cookie, age));
        proxy.callback(&query, Some(&format!("b24proxy_install={cookie}")))
    };
    page(&back(595), 200);
    page(&back(602), 403);
    page(&back(-30), 403);
    assert_eq!(proxy.simulator.ledger().exchanges(), 1);
}

#[test]
fn a_code_that_was_spent_or_is_none_is_400() {
    let proxy = Proxy::not_installed();
    let begun = proxy.begin();
    let code = proxy.portal().issue_code(1);
    page(&proxy.come_back(&begun, &code), 200);
    let before = proxy.stored_bytes();
    assert_says(&page(&proxy.come_back(&begun, &code), 400), &["The code has been used already", "/install?portal="]);
    page(&proxy.come_back(&begun, "never-issued"), 400);
    page(&proxy.come_back(&begun, ""), 400);
    assert_eq!(proxy.stored_bytes(), before);
}

#[test]
fn an_administrator_who_says_no_is_told_to_begin_again() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    let begun = proxy.begin();
    let query = format!("error=access_denied&error_description=no&state={}", begun.state);
    assert_says(&page(&proxy.callback(&query, Some(&begun.cookie)), 400), &["not agreed to"]);
    assert_says(&page(&proxy.get("").query(&query).header("Cookie", &begun.cookie).run(), 400), &["not agreed to"]);
    page(&proxy.callback("error=access_denied", Some(&begun.cookie)), 403);
    assert_eq!((proxy.stored_bytes(), proxy.asked_oauth()), (before, 0));
}

#[test]
fn an_error_on_the_way_back_is_a_page_that_says_it_in_words_and_spends_nothing() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    let begun = proxy.begin();
    let code = proxy.portal().issue_code(1);
    let (denied, other) = ("not agreed to in Bitrix24 (access_denied)", "did not give access");
    for (query, status, words) in [
        ("error=access_denied".to_owned(), 403, denied),
        ("error=access_denied&error_description=%D0%9D%D0%B5%D1%82&state=x".into(), 403, denied),
        ("error=access_denied&error_description=%CD%E5%F2".into(), 403, denied),
        ("error=access_denied&error=access_denied".into(), 403, other),
        (format!("error=access_denied&code={code}"), 403, denied),
        (format!("error=access_denied&code={code}&state={}", begun.state), 400, denied),
        ("error=invalid_scope&error_description=%3Cb%3Ex".into(), 403, "did not give access (invalid_scope)"),
        ("error=%3Cscript%3E&error_description=%3Cscript%3Ealert(1)".into(), 403, other),
        ("error=%D0%BD%D0%B5%D1%82%1B%5B31m".into(), 403, other),
        ("error=".into(), 403, other),
    ] {
        for path in ["", "/", "/callback"] {
            let answer = proxy.get(path).query(&query).header("Cookie", &begun.cookie).run();
            let text = page(&answer, status);
            assert_says(&text, &[words, "Begin again"]);
            assert!(!text.contains("<script") && !text.contains('\u{1b}') && !text.contains("alert(1)"), "{text}");
        }
        let russian = page(&proxy.get("").query(&format!("{query}&LANG=ru")).run(), 403);
        assert_says(&russian, &["Битрикс24", "Начать заново"]);
    }
    assert_eq!((proxy.stored_bytes(), proxy.asked_oauth()), (before, 0));
    page(&proxy.come_back(&begun, &code), 200);
}

#[test]
fn a_portal_that_is_not_configured_is_404_and_never_contacted() {
    let proxy = Proxy::not_installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    for name in [other.name().as_str(), "never-resolved.invalid"] {
        let text = page(&proxy.get("/install").query(&format!("portal={name}")).run(), 404);
        assert_says(&text, &["This portal is not configured"]);
    }
    // A client's token in its place is repeated nowhere.
    for query in
        [TOKEN.to_owned(), format!("https%3A//x%3A{TOKEN}%40{TOKEN}/rest/")].map(|name| format!("portal={name}"))
    {
        let answer = proxy.get("/install").query(&query).run();
        assert_says(&page(&answer, 404), &["has no such portal"]);
        assert!(!answer.text().contains(TOKEN) && !answer.stderr.contains(TOKEN), "{}{}", answer.text(), answer.stderr);
    }
    assert_says(&page(&proxy.opening(&other.frame_form(1)).run(), 404), &["Портал не настроен"]);
    assert_failure(&proxy.post_event(&other.event_form("ONAPPINSTALL")), 404, "unknown_portal");
    assert_failure(&proxy.post_event(&other.event_form("ONAPPUNINSTALL")), 404, "unknown_portal");
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn access_given_on_another_portal_than_the_one_begun_for_is_403_naming_both() {
    let proxy = Proxy::installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let before = proxy.stored_bytes();
    let begun = proxy.begin();
    let answer = proxy.come_back(&begun, &other.issue_code(1));
    assert_says(&page(&answer, 403), &["This is another portal", &proxy.portal().name(), &other.name()]);
    assert_eq!(proxy.stored_bytes(), before);
}

#[test]
fn an_address_that_may_not_be_used_is_403() {
    let proxy = Proxy::not_installed();
    let malformed = ["https://127.0.0.1:PORT/other/", "", "https://127.0.0.1:PORT/rest/?x", "https://host name/rest/"];
    let plain = ["http://127.0.0.1:PORT/rest/"];
    let words = malformed.map(|address| (address, "is not like https://"));
    for (address, word) in words.into_iter().chain(plain.map(|address| (address, "plain http"))) {
        let port = proxy.portal().name().replace("127.0.0.1:", "");
        proxy.portal().set_client_endpoint(Some(&address.replace("PORT", &port)));
        let text = page(&proxy.install_in_browser(1), 403);
        assert_says(&text, &[word]);
        assert_eq!(text.contains("plain http"), plain.contains(&address), "{address} and {text}");
    }
    assert_eq!(proxy.stored_bytes(), None);
}

#[test]
fn another_bitrix24_under_a_known_name_is_409_and_the_file_is_named_on_every_way() {
    let proxy = Proxy::installed().on_files();
    let before = proxy.stored_bytes();
    proxy.portal().set_member_id("another-member-id");
    let file = proxy.place();
    assert_says(&page(&proxy.install_in_browser(1), 409), &[&file, "move the file"]);
    let event = proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL"));
    assert_failure(&event, 409, "member_mismatch");
    assert_says(event.json()["error"].as_str().unwrap(), &[&file]);
    proxy.portal().uninstall();
    assert_says(&page(&proxy.open_as(1), 409), &[&file, "переместите файл"]);
    assert_eq!(proxy.stored_bytes(), before);

    proxy.sandbox.remove_token_file(&format!("{}.json", proxy.stem()));
    page(&proxy.install_in_browser(1), 200);
    assert_eq!(proxy.stored()["member_id"], "another-member-id");
}

#[test]
fn another_bitrix24_under_a_known_name_is_409_and_a_database_is_named_the_statement_that_sets_its_tokens_aside() {
    for kind in [Kind::Postgres, Kind::MySql] {
        let proxy = Proxy::not_installed().on_database(shared(kind).database());
        page(&proxy.install_in_browser(1), 200);
        let before = proxy.stored()["refresh_token"].clone();
        proxy.portal().set_member_id("another-member-id");
        assert_says(&page(&proxy.install_in_browser(1), 409), &["UPDATE b24proxy_portals", "install again"]);
        let event = proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL"));
        assert_failure(&event, 409, "member_mismatch");
        let error = event.json()["error"].as_str().expect("a text").to_owned();
        proxy.portal().uninstall();
        assert_says(&page(&proxy.open_as(1), 409), &["в базе данных программы"]);
        assert_eq!(proxy.stored()["refresh_token"], before);

        let statement = error.split_once("UPDATE").and_then(|(_, rest)| rest.split_once(';')).expect(&error).0;
        let database = proxy.sandbox.database().expect("it is on one");
        database.sql(&format!("UPDATE{statement}"));
        page(&proxy.install_in_browser(1), 200);
        assert_eq!(proxy.stored()["member_id"], "another-member-id");
        assert!(database.sql("SELECT removed FROM b24proxy_portals").contains(before.as_str().unwrap()), "it is kept");
    }
}

#[test]
fn an_oauth_server_that_is_down_or_talks_nonsense_is_502() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    proxy.simulator.inject(Fault::once(Target::Token, Action::Html500));
    assert_says(&page(&proxy.install_in_browser(1), 502), &["The OAuth server gave no tokens", "status 500"]);
    proxy.simulator.inject(Fault::once(Target::Token, Action::TruncateJson));
    page(&proxy.install_in_browser(1), 502);
    proxy.portal().set_payment_required(true);
    assert_says(&page(&proxy.install_in_browser(1), 502), &["PAYMENT_REQUIRED"]);
    proxy.simulator.stop_oauth();
    assert_says(&page(&proxy.install_in_browser(1), 502), &["could not be reached"]);
    assert_failure(&proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")), 502, "oauth_server_error");
    assert_eq!(proxy.stored_bytes(), before);
}

#[test]
fn an_application_that_the_oauth_server_does_not_know_is_502_and_says_invalid_client() {
    let proxy = Proxy::not_installed();
    let secret = proxy.simulator.client_secret();
    let proxy = proxy.reconfigured(&secret, "a-wrong-client-secret");
    assert_says(&page(&proxy.install_in_browser(1), 502), &["invalid_client", "client_secret"]);
}

#[test]
fn a_russian_page_tells_in_russian_why_something_failed() {
    let proxy = Proxy::installed();
    let install = || {
        let begun = proxy.begin();
        let query = format!("{}&LANG=ru", begun.query(&proxy.portal().issue_code(1)));
        let text = page(&proxy.callback(&query, Some(&begun.cookie)), 502);
        for english in ["answered", "could not", "it does", "plan", "the portal", "(status"] {
            assert!(!text.contains(english), "{english} is in {text}");
        }
        text
    };
    proxy.simulator.inject(Fault::once(Target::Token, Action::Html500));
    assert_says(&install(), &["Сервер авторизации не выдал токены", "вернул веб-страницу", "(статус 500)"]);
    proxy.portal().inject(Fault::once(Target::Method("profile".into()), Action::Html500));
    assert_says(&install(), &["Не удалось узнать у портала, кто выполняет установку: он вернул веб-страницу"]);
    proxy.portal().set_payment_required(true);
    assert_says(&install(), &["PAYMENT_REQUIRED: на этом портале истёк пробный или оплаченный срок"]);
    proxy.portal().set_payment_required(false);
    proxy.a_minute_passes();
    proxy.simulator.stop_oauth();
    // Refused, or reset where it was accepted at the last moment.
    assert_says(&install(), &["недоступен: соединение "]);
    let proxy = Proxy::not_installed();
    let secret = proxy.simulator.client_secret();
    let proxy = proxy.reconfigured(&secret, "a-wrong-client-secret");
    let begun = proxy.begin();
    let query = format!("{}&LANG=ru", begun.query(&proxy.portal().issue_code(1)));
    assert_says(&page(&proxy.callback(&query, Some(&begun.cookie)), 502), &["он не знает этого приложения"]);
}

#[test]
fn a_portal_that_is_down_is_502_on_every_way() {
    let proxy = Proxy::not_installed();
    let (form, event) = (proxy.portal().frame_form(1), proxy.portal().event_form("ONAPPINSTALL"));
    proxy.portal().stop();
    assert_says(&page(&proxy.install_in_browser(1), 502), &["The portal does not answer"]);
    page(&proxy.opening(&form).run(), 502);
    assert_failure(&proxy.post_event(&event), 502, "bitrix24_unreachable");
    assert_eq!(proxy.stored_bytes(), None);
}

#[test]
fn a_portal_that_does_not_answer_in_time_is_502_and_a_page() {
    let proxy = Proxy::installed().reconfigured("timeout       = 10", "timeout       = 1");
    let before = proxy.stored_bytes();
    proxy.portal().inject(Fault::once(Target::Method("profile".into()), Action::Hang));
    let answer = proxy.install_in_browser(1);
    assert_says(&page(&answer, 502), &["did not answer in time"]);
    assert!(answer.elapsed < Duration::from_secs(5));
    assert_eq!(proxy.stored_bytes(), before);
    proxy.simulator.release();
}

#[test]
fn storage_that_cannot_be_written_is_500_before_the_code_is_spent() {
    use std::os::unix::fs::PermissionsExt;
    for lock_is_there in [false, true] {
        let proxy = Proxy::installed();
        if lock_is_there {
            proxy.a_minute_passes();
        }
        let before = proxy.stored_bytes();
        let folder = proxy.sandbox.tokens();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o500)).unwrap();
        let answer = proxy.install_in_browser(1);
        let text = page(&answer, 500);
        assert_says(&text, &["token storage cannot be used", "error log"]);
        assert!(!text.contains(folder.to_str().unwrap()), "no path on the page: {text}");
        assert_says(&answer.stderr, &[folder.to_str().unwrap(), "Permission denied"]);
        assert_eq!(proxy.asked_oauth(), 0, "lock there: {lock_is_there}");
        assert_failure(&proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")), 500, "storage_error");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(proxy.stored_bytes(), before);
    }
}

#[test]
fn a_damaged_token_file_is_named_in_the_log_and_left_as_it_is() {
    let proxy = Proxy::not_installed().on_files();
    proxy.sandbox.write_token_file(&format!("{}.json", proxy.stem()), "{\"access_token\":");
    let before = proxy.stored_bytes();
    for answer in [proxy.install_in_browser(1), proxy.open_as(1)] {
        page(&answer, 500);
        assert_says(&answer.stderr, &["is damaged", "move it away"]);
    }
    assert_failure(&proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")), 500, "storage_error");
    assert_eq!(proxy.stored_bytes(), before);
    assert_eq!(proxy.asked_oauth(), 0, "a file that nothing may replace is noticed before anything is spent");
}

#[test]
fn a_portal_with_a_webhook_has_nothing_to_install() {
    let proxy = Proxy::not_installed();
    let webhook = format!("webhook = \"{}\"\naliases", proxy.portal().webhook_url());
    let proxy = proxy.reconfigured("aliases", &webhook);
    let answer = proxy.get("/install").query("portal=acme").run();
    assert_says(&page(&answer, 400), &["There is nothing to install"]);
    proxy.assert_no_secret(&answer);
    page(&proxy.open_as(1), 400);
    assert_failure(&proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")), 400, "invalid_request");
    assert_eq!(proxy.stored_bytes(), None);
    assert_eq!(proxy.asked_oauth(), 0);
}

#[test]
fn a_right_that_was_not_granted_is_named_and_the_installation_stands() {
    let proxy = Proxy::with(Options {
        portal: PortalOptions { scope: Some("crm,user".into()), ..PortalOptions::default() },
        ..Options::default()
    });
    let answer = proxy.install_in_browser(1);
    assert_says(&page(&answer, 200), &["Rights that were not granted: catalog."]);
    assert_says(&answer.stderr, &["\"level\":\"warn\"", "rights_not_granted", "catalog"]);
    assert_eq!(proxy.stored()["scope"], "crm,user");
    assert_eq!(proxy.call("profile", serde_json::json!({})).status, 200);

    proxy.portal().uninstall();
    assert_says(&page(&proxy.open_as(1), 200), &["Не выданы права: catalog."]);
    let event = proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL"));
    assert_eq!(event.status, 200);
    assert_says(&event.stderr, &["rights_not_granted", "catalog"]);
}

#[test]
fn install_without_a_portal_asks_for_one() {
    let proxy = Proxy::not_installed();
    let text = page(&proxy.get("/install").run(), 200);
    assert_says(&text, &["<form method=\"get\"", "https://www.acme.test/cgi-bin/b24proxy/install", "name=\"portal\""]);
    let answer = proxy.get("/install").query("portal=").run();
    assert_eq!(answer.status, 302, "only one is configured");
    let proxy = proxy.reconfigured("[security]", "[portals.\"second.example.org\"]\n[security]");
    assert_says(
        &page(&proxy.get("/install").query("portal=+").run(), 400),
        &["No portal is named", "<form method=\"get\"", "name=\"portal\""],
    );
}

#[test]
fn pages_are_in_the_language_of_lang_or_the_browser() {
    let proxy = Proxy::not_installed();
    let start = |query: &str, accept: &str| {
        let request = proxy.get("/install").query(query);
        let answer = if accept.is_empty() { request.run() } else { request.header("Accept-Language", accept).run() };
        let text = page(&answer, 200);
        assert_eq!(text.contains("lang=\"ru\""), text.contains("Установка b24proxy"));
        assert_eq!(text.contains("lang=\"en\""), text.contains("Install b24proxy"));
        text.contains("lang=\"ru\"")
    };
    assert!(start("", "ru-RU,ru;q=0.9,en;q=0.8"));
    assert!(start("LANG=ru", "en"));
    assert!(!start("LANG=en", "ru"));
    assert!(!start("LANG=kz", "ru"));
    assert!(!start("", "de,en;q=0.9,ru;q=0.1"));
    assert!(!start("", ""));
    let begun = proxy.begin();
    let query = begun.query(&proxy.portal().issue_code(1));
    let back = proxy.get("/callback").query(&query).header("Cookie", &begun.cookie).header("Accept-Language", "ru");
    let seen = proxy.get("").query(&finished_at(&back.run())).header("Accept-Language", "ru");
    assert_says(&page(&seen.run(), 200), &["b24proxy установлен", "Запрос из 1С"]);
    // The language that the way back was asked in goes along.
    let begun = proxy.begin();
    let query = format!("{}&LANG=ru", begun.query(&proxy.portal().issue_code(1)));
    assert_says(&page(&proxy.callback(&query, Some(&begun.cookie)), 200), &["b24proxy установлен"]);
}

#[test]
fn a_problem_is_told_in_the_browsers_language_and_logged_in_english() {
    let proxy = Proxy::not_installed();
    for (language, words) in [("ru", "Ссылка больше не действует"), ("en", "This link is no longer valid")]
    {
        let answer = proxy.get("/callback").query("code=x&state=y").header("Accept-Language", language).run();
        assert_says(&page(&answer, 403), &[words]);
        assert_says(&answer.stderr, &["This link is no longer valid"]);
    }
}

#[test]
fn a_lock_that_another_holds_is_503_before_the_code_is_spent() {
    let proxy = Proxy::installed().reconfigured("max_wait = 5", "max_wait = 1");
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
    std::thread::scope(|scope| {
        scope.spawn(|| proxy.call("profile", serde_json::json!({})));
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(5)));
        let answer = proxy.install_in_browser(1);
        assert_says(&page(&answer, 503), &["busy"]);
        assert_eq!(answer.header("Retry-After"), Some("5"));
        assert_eq!(proxy.simulator.ledger().exchanges(), 0);
        proxy.simulator.release();
    });
}

#[test]
fn other_events_are_answered_200_and_logged() {
    let proxy = Proxy::installed();
    let before = proxy.stored_bytes();
    for event in ["ONAPPUSERREADY", "ONCRMDEALADD", "ONAPPUPDATE"] {
        let answer = proxy.post_event(&proxy.portal().event_form(event));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_says(&answer.stderr, &[event]);
        proxy.assert_no_secret(&answer);
    }
    assert_eq!(proxy.post_event("event=").status, 200);
    assert_eq!((proxy.stored_bytes(), proxy.asked_oauth()), (before, 0));
}
