//! Contract section 2: a portal whose name is written in Cyrillic, and aliases.

use crate::fixture::*;
use crate::visitor::page;
use serde_json::json;

const ASCII: &str = "xn--d1aqf.xn--p1ai";
/// All the same portal.
const NAMES: [&str; 7] =
    ["дом.рф", "https://ДОМ.рф/rest/1/code/", "ДОМ.РФ", "https://Дом.рф/", ASCII, "XN--D1AQF.XN--P1AI", " дом.рф:443 "];

/// `name`: what the configuration calls the portal.
fn with_portal(name: &str) -> Proxy {
    let proxy = Proxy::not_installed();
    let section = format!("[portals.\"{}\"]\naliases = [\"acme\"]", proxy.portal().name());
    proxy.reconfigured(&section, &format!("[portals.\"{name}\"]\naliases = [\"Торг\", \"ACME\", \"мойдом.рф\"]"))
}

fn tokens(proxy: &Proxy, client_endpoint: &str) {
    let pair = proxy.portal().issue_pair(1);
    let mut tokens = token_file(&pair, proxy.simulator.client_id(), unix_now() + 3600);
    tokens["client_endpoint"] = json!(client_endpoint);
    proxy.sandbox.write_token_file(&format!("{ASCII}.json"), &tokens.to_string());
}

fn profile(proxy: &Proxy, domain: &str) -> support::cgi::Answer {
    proxy.request(json!({"domain": domain, "method": "profile"}).to_string()).run()
}

#[test]
fn a_portal_is_named_in_cyrillic_or_its_ascii_form_in_any_case_wherever_a_name_stands() {
    for configured in ["дом.рф", "Дом.РФ", ASCII] {
        let proxy = with_portal(configured);
        for name in NAMES {
            let answer = profile(&proxy, name);
            assert_failure(&answer, 409, "not_installed");
            let url = answer.json()["install_url"].as_str().unwrap().to_owned();
            assert!(url.ends_with(&format!("/install?portal={ASCII}")), "{url}");
            let query = serde_urlencoded::to_string([("portal", name)]).unwrap();
            let answer = proxy.get("/install").query(&query).run();
            let location = answer.header("Location").expect("a redirect");
            assert!(location.starts_with(&format!("https://{ASCII}/oauth/authorize/?")), "{location}");
            let out = proxy.sandbox.command_line(&["install-url", name.trim()]).output().unwrap();
            assert!(String::from_utf8_lossy(&out.stdout).contains(ASCII), "{out:?}");
        }
        for name in ["дом.рф", "ДОМ.РФ", ASCII] {
            let path = format!("/{name}/rest/1/{TOKEN}/profile");
            let answer = proxy.get(&path).run();
            assert_eq!((answer.status, &answer.json()["error"]), (403, &json!("NOT_INSTALLED")), "{name}");
        }
        for name in ["дома.рф", "дом", "xn--d1aqf", "дом рф", "дом.рф/x@y", "дом\u{200b}.рф"] {
            assert_failure(&profile(&proxy, name), 404, "unknown_portal");
        }
    }
}

#[test]
fn its_files_have_the_ascii_form_and_an_address_in_cyrillic_is_its_address() {
    let proxy = with_portal("дом.рф");
    for address in ["https://дом.рф/rest/", "https://xn--d1aqf.xn--p1ai/rest/"] {
        tokens(&proxy, address);
        let answer = profile(&proxy, "дом.рф");
        // Nobody of that name answers here.
        assert!([502, 504].contains(&answer.status), "{} {}", answer.text(), answer.stderr);
        assert_eq!(answer.json()["executed"], "no");
    }
    for (address, why) in [
        ("http://дом.рф/rest/", "plain http"),
        ("https://дом.рф/", "is not an address such as"),
        ("https://до м.рф/rest/", "is not an address such as"),
        ("https://тот.рф/rest/", "which is not this portal"),
    ] {
        tokens(&proxy, address);
        let answer = profile(&proxy, "дом.рф");
        assert_failure(&answer, 500, "storage_error");
        assert!(answer.stderr.contains(why), "{why}: {}", answer.stderr);
        assert_eq!(answer.stderr.contains("plain http"), address.starts_with("http:"), "{}", answer.stderr);
    }
}

#[test]
fn an_address_in_cyrillic_from_the_oauth_server_is_the_configured_portals() {
    for (address, status) in
        [("https://ДОМ.рф/rest/", 502), ("https://тот.рф/rest/", 403), ("http://дом.рф/rest/", 403)]
    {
        let proxy = with_portal("дом.рф");
        let begun = proxy.begin_at("дом.рф");
        proxy.portal().set_client_endpoint(Some(address));
        let text = page(&proxy.come_back(&begun, &proxy.portal().issue_code(1)), status);
        assert_eq!(text.contains("plain http"), address.starts_with("http:"), "{text}");
        assert_eq!(proxy.simulator.ledger().exchanges(), 1);
    }
}

#[test]
fn an_alias_is_taken_in_any_case_and_language() {
    let proxy = with_portal("дом.рф");
    for alias in ["Торг", "торг", "ТОРГ", "acme", "Acme", " ACME ", "МойДом.рф", "xn--d1ajichc.xn--p1ai"]
    {
        assert_failure(&profile(&proxy, alias), 409, "not_installed");
    }
    for (first, second) in [("торг", "ТОРГ"), ("acme", "ACME"), ("дом.рф", ASCII)] {
        let proxy = Proxy::not_installed();
        let section = format!("[portals.\"{}\"]\naliases = [\"acme\"]", proxy.portal().name());
        let two = format!("[portals.\"a.ru\"]\naliases = [\"{first}\"]\n[portals.\"b.ru\"]\naliases = [\"{second}\"]");
        let proxy = proxy.reconfigured(&section, &two);
        assert_failure(&profile(&proxy, "a.ru"), 500, "configuration_error");
    }
}

#[test]
fn this_programs_own_address_in_cyrillic_is_sent_in_its_ascii_form() {
    let proxy = with_portal("дом.рф").reconfigured("https://www.acme.test/cgi-bin", "https://мойдом.рф/cgi-bin");
    let answer = profile(&proxy, "дом.рф");
    let url = answer.json()["install_url"].as_str().unwrap().to_owned();
    assert_eq!(url, format!("https://xn--d1ajichc.xn--p1ai/cgi-bin/b24proxy/install?portal={ASCII}"));
}
