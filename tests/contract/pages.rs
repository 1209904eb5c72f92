//! Contract section 2: what a person in a browser sees beside the installation itself.

use crate::fixture::*;
use crate::visitor::*;
use simulator::{Action, Fault, Options, PortalOptions, Target};
use support::cgi::{Answer, Cgi};

/// As a browser asks for a page.
fn visit<'a>(proxy: &'a Proxy, path: &str) -> Cgi<'a> {
    proxy.get(path).header("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
}

/// An installation just now, and the query of the address of its page.
fn installed(proxy: &Proxy) -> String {
    let begun = proxy.begin();
    finished_at(&proxy.arrived(&begun.query(&proxy.portal().issue_code(1)), Some(&begun.cookie)))
}

fn finished(proxy: &Proxy, query: &str) -> Answer {
    visit(proxy, "").query(query).run()
}

#[test]
fn a_success_is_303_to_an_address_without_the_code_whose_page_can_be_loaded_again() {
    let proxy = Proxy::not_installed();
    let begun = proxy.begin();
    let code = proxy.portal().issue_code(1);
    let back = proxy.arrived(&begun.query(&code), Some(&begun.cookie));
    let location = back.header("Location").unwrap();
    assert!(location.starts_with("https://www.acme.test/cgi-bin/b24proxy?installed="), "{location}");
    assert!(!location.contains(&code), "{location}");
    let query = finished_at(&back);
    let before = (proxy.stored_bytes(), proxy.asked_oauth());
    for _ in 0..3 {
        let answer = finished(&proxy, &query);
        let text = page(&answer, 200);
        assert_says(
            &text,
            &["b24proxy is installed", &proxy.portal().name(), "Анна Ёлкина/Петрова (ID 1)", "crm, catalog"],
        );
        assert!(policy(&answer).contains("frame-ancestors 'none'"));
        proxy.assert_no_secret(&answer);
    }
    assert_eq!((proxy.stored_bytes(), proxy.asked_oauth()), before, "nothing is done again");
    // The address alone decides, without a path and whatever is accepted.
    page(&proxy.get("").query(&query).env("REQUEST_URI", format!("/cgi-bin/b24proxy?{query}")).run(), 200);
    // What came back before: the code is spent.
    page(&proxy.come_back(&begun, &code), 400);
}

#[test]
fn the_page_of_a_success_is_for_whoever_has_its_signed_address_for_ten_minutes() {
    let portal = PortalOptions { scope: Some("crm,user".into()), ..PortalOptions::default() };
    let proxy = Proxy::with(Options { portal, ..Options::default() });
    let query = installed(&proxy);
    assert_says(
        &page(&finished(&proxy, &query), 200),
        &["Rights that were not granted: catalog.", "Install again</a>"],
    );
    let receipt = query.strip_prefix("installed=").unwrap();
    let parts: Vec<&str> = receipt.split('~').collect();
    let [name, ends, mac] = parts[..] else { panic!("{receipt}") };
    let ends: i64 = ends.parse().unwrap();
    assert!((ends - unix_now() - 600).abs() < 5, "{receipt}");
    let secret = proxy.portal().key_pair().client_secret;
    // What this program would have signed ten minutes ago, what it signs for another purpose, and what somebody else made.
    let old = self::receipt(&secret, &proxy.portal().name(), unix_now() - 601);
    assert_says(
        &page(
            &finished(
                &proxy,
                &format!("installed={}", self::receipt(&secret, &proxy.portal().name(), unix_now() - 500)),
            ),
            200,
        ),
        &["installed"],
    );
    let begun = proxy.begin();
    for forged in [
        old,
        begun.state.clone(),
        self::receipt("another-secret", &proxy.portal().name(), unix_now()),
        format!("{name}~{}~{mac}", ends + 600),
        format!("{name}~{ends}~{}", mac.replace(['0', '1'], "2")),
        format!("other.bitrix24.ru~{ends}~{mac}"),
        format!("{name}~{ends}~{mac}~"),
        format!("{name}~-9223372036854775808~{mac}"),
        String::new(),
        "%3Cscript%3E".into(),
    ] {
        for query in [format!("installed={forged}"), format!("installed={forged}&try=1")] {
            let answer = finished(&proxy, &query);
            let text = page(&answer, 403);
            assert_says(&text, &["This link is no longer valid", "/cgi-bin/b24proxy/status\">"]);
            assert!(!text.contains(&proxy.portal().name()) && !text.contains("script>"), "{text}");
        }
    }
    assert_eq!(proxy.simulator.ledger().exchanges(), 1);
}

/// As the program signs one.
fn receipt(client_secret: &str, portal: &str, issued: i64) -> String {
    use ring::hmac;
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let ends = issued + 600;
    let key = sign(client_secret.as_bytes(), "b24proxy installation receipt");
    let mac = hex(sign(key.as_ref(), &format!("{portal}\n{ends}\n")).as_ref());
    format!("{}~{ends}~{mac}", portal.replace(':', "_"))
}

#[test]
fn the_page_of_a_success_tells_what_is_stored_now() {
    let proxy = Proxy::not_installed();
    let query = installed(&proxy);
    proxy.change_stored(|tokens| tokens["scope"] = "crm".into());
    assert_says(&page(&finished(&proxy, &query), 200), &["Rights that were not granted: catalog."]);
    // Of a version that kept no name.
    proxy.change_stored(|tokens| drop(tokens.as_object_mut().unwrap().remove("user_name")));
    let text = page(&finished(&proxy, &query), 200);
    assert!(text.contains("<td>ID 1</td>") && !text.contains("Анна"), "{text}");
    proxy.sandbox.remove_token_file(&format!("{}.json", proxy.stem()));
    assert_says(&page(&finished(&proxy, &query), 409), &["Not installed", "Begin again"]);
}

#[test]
fn a_call_can_be_tried_from_the_page_of_a_success_and_says_for_whom_bitrix24_answers() {
    let proxy = Proxy::not_installed();
    let query = installed(&proxy);
    let text = page(&finished(&proxy, &query), 200);
    assert_says(&text, &["&#38;try=1\">Try a call</a>"]);
    let calls = proxy.simulator.ledger().calls("profile");
    let answer = finished(&proxy, &format!("{query}&try=1"));
    assert_says(
        &page(&answer, 200),
        &["The call was answered", "on behalf of Анна Ёлкина/Петрова (ID 1)", "Try again"],
    );
    assert_eq!(proxy.simulator.ledger().calls("profile"), calls + 1);
    proxy.assert_no_secret(&answer);
    let russian = finished(&proxy, &format!("{query}&try=1&LANG=ru"));
    assert_says(&page(&russian, 200), &["Вызов выполнен", "от имени пользователя Анна", "&#38;LANG=ru&#38;try=1"]);
    proxy.assert_no_secret(&russian);
}

#[test]
fn a_call_that_is_tried_says_what_is_wrong_and_refreshes_nothing_for_a_refusal() {
    let proxy = Proxy::not_installed();
    let query = format!("{}&try=1", installed(&proxy));
    let before = proxy.stored_bytes();
    proxy.portal().inject(Fault::once(Target::Method("profile".into()), Action::Html500));
    assert_says(&page(&finished(&proxy, &query), 502), &["The call was not answered"]);
    proxy.portal().uninstall();
    let russian = page(&finished(&proxy, &format!("{query}&LANG=ru")), 409);
    assert_says(&russian, &["Битрикс24 не принимает токены", "Начать заново"]);
    assert_eq!((proxy.stored_bytes(), proxy.simulator.ledger().refreshes()), (before, 0));
    proxy.portal().stop();
    assert_says(&page(&finished(&proxy, &format!("{query}&LANG=ru")), 502), &["Вызов не выполнен"]);
}

#[test]
fn whoever_tries_calls_without_end_leaves_clients_their_share_of_the_limit() {
    let proxy = Proxy::not_installed();
    let query = format!("{}&try=1", installed(&proxy));
    let tries: Vec<Answer> = (0..60).map(|_| finished(&proxy, &query)).collect();
    let refused = tries.iter().find(|answer| answer.status == 429).expect("one is refused");
    assert_says(&page(refused, 429), &["Too many attempts"]);
    assert!(refused.header("Retry-After").is_some());
    assert_eq!(proxy.call("profile", serde_json::json!({})).status, 200);
}

#[test]
fn the_programs_own_address_is_a_page_in_a_browser_and_405_for_others() {
    let proxy = Proxy::installed();
    for path in ["", "/"] {
        let text = page(&visit(&proxy, path).run(), 200);
        assert_says(&text, &["calls from 1C to Bitrix24", "<form method=\"get\"", "name=\"portal\"", "required"]);
        assert_says(&text, &["action=\"https://www.acme.test/cgi-bin/b24proxy/install\""]);
        assert_says(&text, &["href=\"https://www.acme.test/cgi-bin/b24proxy/status\">State of b24proxy</a>"]);
        assert!(!text.contains(&proxy.portal().name()), "no portal is named to strangers: {text}");
        let russian = page(&visit(&proxy, path).header("Accept-Language", "ru").run(), 200);
        assert_says(&russian, &["вызовы из 1С в Битрикс24", "Установить", "Состояние b24proxy"]);
        assert_eq!(visit(&proxy, path).method("HEAD").run().status, 200);
        for accept in ["*/*", "application/json", ""] {
            let answer = proxy.get(path).header("Accept", accept).run();
            assert_failure(&answer, 405, "method_not_supported");
            assert_eq!(answer.header("Allow"), Some("POST"));
        }
        assert_failure(&proxy.get(path).run(), 405, "method_not_supported");
        assert_failure(&visit(&proxy, path).method("PUT").run(), 405, "method_not_supported");
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn pages_find_their_own_address_without_redirect_uri() {
    let without = "redirect_uri  = \"https://www.acme.test/cgi-bin/b24proxy\"\n";
    let proxy = Proxy::not_installed().reconfigured(without, "");
    let at = |request: Cgi| request.header("Host", "b24.lan:8080").env("HTTPS", "on").run().text();
    assert_says(&at(visit(&proxy, "")), &["action=\"https://b24.lan:8080/cgi-bin/b24proxy/install\""]);
    assert_says(&at(visit(&proxy, "/status")), &["href=\"https://b24.lan:8080/cgi-bin/b24proxy/status\""]);
    // A Host that is no host leads nowhere.
    let text = visit(&proxy, "").header("Host", "x\" onload=\"alert(1)").run().text();
    assert!(!text.contains("onload"), "{text}");
}

#[test]
fn without_a_token_a_browser_is_told_in_a_page_what_to_do_and_asked_for_it() {
    let proxy = Proxy::installed();
    let wrong = || visit(&proxy, "/status").bearer("a-wrong-token-of-that-length");
    for (request, title, cure) in [
        (visit(&proxy, "/status"), "A client&#39;s token is needed", "check --url"),
        (visit(&proxy, "/status").header("Authorization", "Digest x"), "A client&#39;s token is needed", "Log in with"),
        (wrong(), "This token is not known", "Log in with"),
    ] {
        let answer = request.run();
        assert_says(&page(&answer, 401), &[title, cure, "/status\">Log in</a>"]);
        assert!(answer.header("WWW-Authenticate").unwrap().starts_with("Basic "));
        assert!(!answer.text().contains(&proxy.portal().name()));
    }
    let answer = wrong().header("Accept-Language", "ru").run();
    assert_says(&page(&answer, 401), &["Такого токена нет", "Войти"]);
    assert_failure(&proxy.get("/status").run(), 401, "unauthorized");
    assert_failure(&proxy.bare_request("{}").header("Accept", "text/html").run(), 401, "unauthorized");
}

#[test]
fn what_is_refused_to_a_browser_or_not_there_is_a_page_and_json_for_others() {
    let proxy = Proxy::installed().reconfigured("[security]", "[security]\nallowed_ips = [\"192.0.2.1\"]");
    let status = |accept: &str| proxy.get("/status").bearer(TOKEN).header("Accept", accept);
    assert_says(&page(&status("text/html").run(), 403), &["This is not allowed", "allowed_ips"]);
    let russian = page(&status("text/html").header("Accept-Language", "ru").run(), 403);
    assert_says(&russian, &["Доступ не разрешён", "в журнале"]);
    assert_failure(&status("application/json").run(), 403, "forbidden");
    assert_says(&page(&visit(&proxy, "/nothing").run(), 404), &["nothing at this address", "/cgi-bin/b24proxy\">"]);
    assert_failure(&proxy.get("/nothing").run(), 404, "not_found");
    // Bitrix24's own shape, whoever asks.
    assert_eq!(visit(&proxy, "/rest/1/x").run().json()["error"], "NOT_FOUND");
}

#[test]
fn a_broken_configuration_is_a_page_for_browsers_that_keeps_the_reason_to_the_log() {
    let proxy = Proxy::installed().configured("[security]\nauth_token = \"a-secret-that-nobody-sees\"\nnonsense = 1\n");
    for path in ["", "/status", "/install", "/callback", "/nothing"] {
        let answer = visit(&proxy, path).header("Accept-Language", "ru").run();
        let text = page(&answer, 500);
        assert_says(&text, &["b24proxy настроен неверно", "в журнале", "b24proxy check"]);
        assert!(!text.contains("nonsense") && !text.contains("proxy.toml"), "{text}");
        assert_says(&answer.stderr, &["nonsense"]);
    }
    assert_says(&page(&visit(&proxy, "").run(), 500), &["not configured correctly"]);
    assert_failure(&proxy.get("/status").bearer(TOKEN).run(), 500, "configuration_error");
    assert_eq!(visit(&proxy, "/health").run().json()["reason"], "configuration_error");
}

#[test]
fn a_storage_that_cannot_be_used_is_a_page_for_browsers_on_every_address() {
    use std::os::unix::fs::PermissionsExt;
    let proxy = Proxy::installed().on_files();
    let folder = proxy.sandbox.tokens();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    for path in ["", "/status", "/install", "/callback"] {
        let answer = visit(&proxy, path).bearer(TOKEN).run();
        let text = page(&answer, 500);
        assert_says(&text, &["The token storage cannot be used"]);
        assert!(!text.contains(folder.to_str().unwrap()), "{text}");
        assert_says(&answer.stderr, &[folder.to_str().unwrap()]);
    }
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    page(&visit(&proxy, "").run(), 200);
}

#[test]
fn the_portal_that_was_asked_for_is_repeated_where_it_is_not_configured() {
    let proxy = Proxy::not_installed();
    let ask = |name: &str| page(&visit(&proxy, "/install").query(&format!("portal={name}")).run(), 404);
    assert_says(
        &ask("acmee.bitrix24.ru"),
        &["acmee.bitrix24.ru", "[portals.&#34;acmee.bitrix24.ru&#34;]", "value=\"acmee.bitrix24.ru\""],
    );
    assert_says(
        &ask("https://ACMEE.bitrix24.ru/crm/deal/"),
        &["ACMEE.bitrix24.ru", "[portals.&#34;acmee.bitrix24.ru&#34;]"],
    );
    assert_says(
        &ask("%D0%BF%D0%BE%D1%80%D1%82%D0%B0%D0%BB.%D1%80%D1%84"),
        &["портал.рф", "xn--80aafwf.xn--p1ai"].map(|s| if s.starts_with("xn") { "[portals.&#34;xn--" } else { s }),
    );
    for (hostile, shown) in [
        ("%3Cscript%3Ealert(1)%3C%2Fscript%3E", "&#60;script&#62;alert(1)"),
        ("%22%20onfocus%3D%22alert(1)", "&#34; onfocus=&#34;alert(1)"),
        ("a%0d%0ab%1b%5B31m%E2%80%AEc", "a  b [31m c"),
    ] {
        let text = ask(hostile);
        assert_says(&text, &[shown]);
        assert!(!text.contains("<script>") && !text.contains("\" onfocus") && !text.contains("[portals"), "{text}");
    }
    let long = ask(&"x".repeat(5000));
    assert!(long.contains(&"x".repeat(100)) && !long.contains(&"x".repeat(101)));
    // A webhook's address that was pasted: its code is repeated nowhere.
    let pasted = visit(&proxy, "/install").query("portal=https://u:pw@other.bitrix24.ru/rest/1/s3cretcode/").run();
    assert_says(&page(&pasted, 404), &["other.bitrix24.ru"]);
    assert!(!format!("{}{}", pasted.text(), pasted.stderr).contains("s3cretcode"), "{}", pasted.stderr);
    assert!(!format!("{}{}", pasted.text(), pasted.stderr).contains("pw@"), "{}", pasted.stderr);
}
