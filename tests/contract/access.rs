//! Contract section 1, "Who may call".

use crate::fixture::*;
use crate::logging::lines;
use base64::prelude::{Engine, BASE64_STANDARD};
use serde_json::{json, Value};
use simulator::PortalOptions;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use support::cgi::{Answer, Cgi};
use support::eventually;
use support::webserver::{Kind, Setup, WebServer, ALL};

const PROFILE: &str = r#"{"method":"profile"}"#;
const TRADE: &str = "the-token-of-1c-trade";

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// A proxy with the client 1c-trade beside the one with auth_token, and these further lines for it.
fn with_trade(lines: &str) -> Proxy {
    let section = format!("[[security.clients]]\nname = \"1c-trade\"\ntoken = \"{TRADE}\"\n{lines}\n[limits]");
    Proxy::installed().reconfigured("[limits]", &section)
}

fn with_security(lines: &str) -> Proxy {
    Proxy::installed().reconfigured("[security]", &format!("[security]\n{lines}"))
}

fn authorized(proxy: &Proxy, authorization: &str) -> u16 {
    proxy.bare_request(PROFILE).header("Authorization", authorization).run().status
}

/// A call of 1c-trade.
fn trade(proxy: &Proxy, method: &str, params: Value) -> Answer {
    proxy.bare_request(json!({"method": method, "params": params}).to_string()).bearer(TRADE).run()
}

#[test]
fn bearer_is_the_token() {
    let proxy = with_trade("");
    for good in [TOKEN, TRADE] {
        assert_eq!(authorized(&proxy, &format!("Bearer {good}")), 200);
        assert_eq!(authorized(&proxy, &format!("bEARER  {good} ")), 200, "the scheme's name in any case");
    }
    let upper = TOKEN.to_uppercase();
    for bad in ["", "Bearer", "Bearer ", TOKEN, &TOKEN[1..], &upper, &format!("{TOKEN} {TRADE}")] {
        assert_ne!(authorized(&proxy, bad), 200, "{bad}");
        assert_ne!(authorized(&proxy, &format!("Bearer x{bad}")), 200, "{bad}");
        assert_ne!(authorized(&proxy, &format!("Token {TOKEN}")), 200);
    }
}

#[test]
fn basic_is_the_clients_name_and_token_and_with_auth_token_any_name() {
    let proxy = with_trade("");
    assert_eq!(authorized(&proxy, &basic("1c-trade", TRADE)), 200);
    assert_eq!(authorized(&proxy, &basic("auth_token", TRADE)), 401);
    assert_eq!(authorized(&proxy, &basic("1C-TRADE", TRADE)), 401);
    assert_eq!(authorized(&proxy, &basic("", TRADE)), 401);
    for user in ["1c-trade", "anybody", "Обмен", ""] {
        assert_eq!(authorized(&proxy, &basic(user, TOKEN)), 200, "{user}");
    }
    assert_eq!(authorized(&proxy, &basic("1c-trade", &format!("{TRADE}:"))), 401);
    assert_eq!(authorized(&proxy, "Basic ???"), 401);
    assert_eq!(authorized(&proxy, &format!("Basic {}", BASE64_STANDARD.encode("no-colon"))), 401);
}

#[test]
fn a_token_may_be_configured_by_its_sha256() {
    let digest = sha256_hex(b"a-token-only-known-to-its-user");
    for digest in [digest.clone(), digest.to_uppercase()] {
        let section = format!("[[security.clients]]\nname = \"hashed\"\ntoken_sha256 = \"{digest}\"\n[limits]");
        let proxy = Proxy::installed().reconfigured("[limits]", &section);
        assert_eq!(authorized(&proxy, "Bearer a-token-only-known-to-its-user"), 200);
        assert_eq!(authorized(&proxy, &format!("Bearer {digest}")), 401, "the digest is not the token");
    }
}

#[test]
fn the_first_header_that_is_not_empty_counts() {
    let proxy = Proxy::installed();
    let status = |first: Option<&str>, second: Option<&str>, third: Option<&str>| {
        let names = ["HTTP_AUTHORIZATION", "REDIRECT_HTTP_AUTHORIZATION", "HTTP_X_B24PROXY_TOKEN"];
        let mut request = proxy.bare_request(PROFILE);
        for (name, value) in names.into_iter().zip([first, second, third]) {
            if let Some(value) = value {
                request = request.env(name, value);
            }
        }
        request.run().status
    };
    let good = format!("Bearer {TOKEN}");
    let good = Some(good.as_str());
    let (bad, bare) = (Some("Bearer wrong"), Some(TOKEN));
    for absent in [None, Some(""), Some("  ")] {
        assert_eq!(status(good, absent, absent), 200);
        assert_eq!(status(absent, good, absent), 200);
        assert_eq!(status(absent, absent, bare), 200);
        assert_eq!(status(absent, absent, good), 200);
        assert_eq!(status(absent, absent, absent), 401);
    }
    assert_eq!(status(good, bad, bad), 200);
    assert_eq!(status(None, good, bad), 200);
    assert_eq!(status(bad, good, bare), 401);
    assert_eq!(status(None, bad, bare), 401);
    assert_eq!(status(Some("Digest x"), good, bare), 401);
}

#[test]
fn the_answer_401_has_one_www_authenticate_that_names_both_schemes() {
    let proxy = Proxy::installed();
    for answer in [
        proxy.bare_request(PROFILE).run(),
        proxy.bare_request(PROFILE).bearer("wrong").run(),
        authorized_as_nobody(&proxy),
    ] {
        assert_failure(&answer, 401, "unauthorized");
        let all: Vec<_> =
            answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate")).collect();
        assert_eq!(all.len(), 1);
        assert!(all[0].1.contains("Bearer realm=") && all[0].1.contains("Basic realm="), "{all:?}");
    }
}

fn authorized_as_nobody(proxy: &Proxy) -> Answer {
    proxy.bare_request(PROFILE).header("Authorization", &basic("1c-trade", "wrong")).run()
}

#[test]
fn allowed_ips_are_compared_with_remote_addr() {
    let proxy = with_security("allowed_ips = [\"192.0.2.10\", \"10.0.0.0/8\", \"2001:db8::/32\"]");
    let from = |address: &str| proxy.request(PROFILE).env("REMOTE_ADDR", address).run();
    for inside in ["192.0.2.10", "10.1.2.3", "10.255.255.255", "2001:db8::1", "2001:DB8:0:0::1", "::ffff:192.0.2.10"] {
        assert_eq!(from(inside).status, 200, "{inside}");
    }
    for outside in ["192.0.2.11", "11.0.0.1", "2001:db9::1", "::1", "::ffff:192.0.2.11", "::192.0.2.10", "", "x"] {
        assert_failure(&from(outside), 403, "forbidden");
    }
    assert_failure(&proxy.request(PROFILE).without("REMOTE_ADDR").run(), 403, "forbidden");
    // Nothing that a caller sends is his address.
    let forwarded = proxy.request(PROFILE).header("X-Forwarded-For", "10.1.2.3").header("Forwarded", "for=10.1.2.3");
    assert_failure(&forwarded.run(), 403, "forbidden");
}

#[test]
fn from_a_trusted_proxy_the_last_address_that_is_not_itself_one_counts() {
    let security =
        "allowed_ips = [\"192.0.2.10\", \"2001:db8::/32\"]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";
    let proxy = with_security(security);
    let from = |peer: &str, list: &str| {
        proxy.request(PROFILE).env("REMOTE_ADDR", peer).env("HTTP_X_FORWARDED_FOR", list).run()
    };
    for (peer, list) in [
        ("127.0.0.1", "192.0.2.10"),
        ("::ffff:127.0.0.1", "192.0.2.10:4711"),
        ("10.1.2.3", "198.51.100.1, nonsense, 192.0.2.10, 10.0.0.1,127.0.0.1"),
        ("127.0.0.1", "[2001:db8::1]:4711"),
        ("127.0.0.1", "2001:DB8::1"),
        ("127.0.0.1", "2001:db8::1%eth0"),
        ("127.0.0.1", "::ffff:192.0.2.10"),
        // Whoever is not trusted is asked himself.
        ("192.0.2.10", "198.51.100.1"),
    ] {
        assert_eq!(from(peer, list).status, 200, "{peer} {list}");
    }
    for (peer, list) in [
        ("127.0.0.1", "198.51.100.1"),
        ("127.0.0.1", "192.0.2.10, 198.51.100.1"),
        ("127.0.0.1", "192.0.2.10, 198.51.100.1, 10.0.0.1"),
        ("127.0.0.1", "192.0.2.10, unknown"),
        ("127.0.0.1", "192.0.2.10,"),
        ("127.0.0.1", "192.0.2.10:x"),
        ("127.0.0.1", "\"192.0.2.10\""),
        ("198.51.100.1", "192.0.2.10"),
        ("", "192.0.2.10"),
        ("unix:", "192.0.2.10"),
    ] {
        assert_failure(&from(peer, list), 403, "forbidden");
    }
    let not_text = OsStr::from_bytes(b"\xff\xfe, 198.51.100.1");
    let answer = proxy.request(PROFILE).env("HTTP_X_FORWARDED_FOR", not_text).run();
    assert!(answer.text().contains("198.51.100.1"), "{}", answer.text());
    // Without the header the proxy's own address counts.
    assert_failure(&proxy.request(PROFILE).run(), 403, "forbidden");
    let own = with_security("allowed_ips = [\"127.0.0.1\"]\ntrusted_proxies = [\"127.0.0.1\"]");
    assert_eq!(own.request(PROFILE).run().status, 200);
    assert_eq!(own.request(PROFILE).header("X-Forwarded-For", "192.0.2.10").run().status, 403);
}

#[test]
fn a_clients_own_ips_hold_for_the_address_that_a_trusted_proxy_tells() {
    let proxy = with_trade("ips = [\"192.0.2.0/24\"]")
        .reconfigured("[security]", "[security]\ntrusted_proxies = [\"127.0.0.1\"]");
    let from = |list: &str| proxy.bare_request(PROFILE).bearer(TRADE).header("X-Forwarded-For", list).run().status;
    assert_eq!((from("192.0.2.7"), from("198.51.100.7"), from("192.0.2.7, 198.51.100.7")), (200, 403, 403));
}

#[test]
fn an_address_that_is_perhaps_a_proxys_is_refused_without_advice_to_allow_it() {
    let proxy = with_security("allowed_ips = [\"192.0.2.10\"]");
    for peer in ["127.0.0.1", "::1", "10.0.0.7", "192.168.0.1", "fd00::1"] {
        for header in ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via", "CF-Connecting-IP"] {
            let answer = proxy.request(PROFILE).env("REMOTE_ADDR", peer).header(header, "192.0.2.77").run();
            assert_failure(&answer, 403, "forbidden");
            let logged = lines(&answer.stderr).pop().expect("a line")["message"].to_string();
            for told in [answer.text(), logged] {
                assert!(told.contains("trusted_proxies") && told.contains(peer), "{told}");
                assert!(!told.contains("allowed_ips") && !told.contains("192.0.2.77"), "{told}");
            }
        }
    }
    // Apache writes the interface behind a link-local address.
    let answer = proxy.request(PROFILE).env("REMOTE_ADDR", "fe80::1%eth0").header("Via", "1.1 front").run();
    assert!(answer.text().contains("trusted_proxies = [\\\"fe80::1\\\"]"), "{}", answer.text());
    for (peer, header) in [("10.0.0.7", "X-Requested-With"), ("198.51.100.1", "X-Forwarded-For")] {
        let answer = proxy.request(PROFILE).env("REMOTE_ADDR", peer).header(header, "192.0.2.77").run();
        assert!(answer.text().contains("add it to allowed_ips"), "{}", answer.text());
    }
}

#[test]
fn behind_nginx_before_apache_the_callers_own_address_counts_once_nginx_is_trusted() {
    let proxy = with_security("allowed_ips = [\"192.0.2.10\"]");
    let apache = WebServer::start(&proxy.sandbox, Kind::ApacheCgid);
    // Addresses of a test's callers are all 127.0.0.1, so nginx says that the caller is whom one header names.
    let directives = format!(
        "location /front/ {{ proxy_pass {}; proxy_set_header X-Forwarded-For \"$http_x_forwarded_for, $http_x_caller\"; }}",
        apache.url("/cgi-bin/b24proxy/")
    );
    let nginx = WebServer::start_with(&proxy.sandbox, Kind::Nginx, &Setup { directives, ..Setup::default() });
    let call = |caller: &str, sent: &str| {
        let request = nginx.request("POST", "/front/").bearer(TOKEN).json(PROFILE);
        request.header("X-Caller", caller).header("X-Forwarded-For", sent).send()
    };
    let refused = call("192.0.2.10", "192.0.2.10");
    let text = refused.text();
    assert_eq!(refused.status, 403, "{text}");
    assert!(text.contains("trusted_proxies = [\\\"127.0.0.1\\\"]") && !text.contains("allowed_ips"), "{text}");
    let _proxy = proxy.reconfigured("[security]", "[security]\ntrusted_proxies = [\"127.0.0.1\"]");
    assert_eq!(call("192.0.2.10", "198.51.100.1").status, 200);
    assert_eq!(call("198.51.100.1", "192.0.2.10").status, 403);
}

#[test]
fn several_headers_of_forwarded_addresses_are_one_list_under_every_web_server() {
    let proxy = with_security("allowed_ips = [\"192.0.2.10\"]\ntrusted_proxies = [\"127.0.0.1\"]");
    for kind in ALL {
        let server = WebServer::start(&proxy.sandbox, kind);
        let call = |first: &str, second: &str| {
            let request = server.request("POST", "/cgi-bin/b24proxy").bearer(TOKEN).json(PROFILE);
            request.header("X-Forwarded-For", first).header("X-Forwarded-For", second).send()
        };
        assert_eq!(call("198.51.100.1", "192.0.2.10").status, 200, "{kind:?}");
        let refused = call("192.0.2.10", "198.51.100.1");
        assert!(refused.status == 403 && refused.text().contains("198.51.100.1"), "{kind:?}: {}", refused.text());
    }
}

#[test]
fn allowed_ips_hold_for_client_routes_only() {
    let proxy = with_security("allowed_ips = [\"192.0.2.10\"]");
    assert_eq!(proxy.get("/health").run().status, 200);
    assert_eq!(proxy.bare_request("").form("event=ONCRMDEALADD").run().status, 200);
    assert_eq!(proxy.get("/install").query("portal=acme").run().status, 302);
}

#[test]
fn without_allowed_ips_any_address_may_call_and_with_an_empty_list_none() {
    let from = |proxy: &Proxy, address: &str| proxy.request(PROFILE).env("REMOTE_ADDR", address).run().status;
    let any = Proxy::installed();
    assert_eq!((from(&any, "203.0.113.9"), from(&any, "")), (200, 200));
    assert_eq!(from(&with_security("allowed_ips = []"), "127.0.0.1"), 403);
}

#[test]
fn a_clients_own_ips_hold_beside_allowed_ips() {
    let proxy = with_trade("ips = [\"192.0.2.0/24\"]")
        .reconfigured("[security]", "[security]\nallowed_ips = [\"192.0.2.10\", \"10.0.0.0/8\"]");
    let from =
        |token: &str, address: &str| proxy.bare_request(PROFILE).bearer(token).env("REMOTE_ADDR", address).run().status;
    assert_eq!(from(TRADE, "192.0.2.10"), 200);
    assert_eq!(from(TRADE, "192.0.2.11"), 403, "its own alone is not enough");
    assert_eq!(from(TRADE, "10.0.0.1"), 403, "the common one alone is not enough");
    assert_eq!(from(TOKEN, "10.0.0.1"), 200, "another client's are not asked");
}

#[test]
fn a_client_with_portals_may_use_only_these() {
    let proxy = Proxy::installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let section = format!(
        "[portals.\"{}\"]\naliases = [\"other\"]\n[[security.clients]]\nname = \"1c-trade\"\ntoken = \"{TRADE}\"\n\
         portals = [\"ACME\"]\n[limits]",
        other.name()
    );
    let proxy = proxy.reconfigured("[limits]", &section);
    let call = |token: &str, domain: &str| {
        proxy.bare_request(json!({"domain": domain, "method": "profile"}).to_string()).bearer(token).run()
    };
    assert_eq!(call(TRADE, "acme").status, 200);
    assert_eq!(call(TRADE, &proxy.portal().name()).status, 200);
    for name in ["other", &other.name()] {
        assert_failure(&call(TRADE, name), 403, "forbidden");
        assert_failure(&call(TOKEN, name), 409, "not_installed");
    }
    assert_eq!(proxy.simulator.ledger().connections(&other.name()), 0);
}

#[test]
fn a_client_with_portals_that_are_not_configured_is_a_configuration_error() {
    let proxy = with_trade("portals = [\"nobody.bitrix24.ru\"]");
    assert_failure(&proxy.request(PROFILE).run(), 500, "configuration_error");
}

#[test]
fn methods_are_compared_lower_cased_and_without_json_or_xml() {
    let proxy = with_trade("methods = [\"SIM.*\", \"crm.deal.list\", \"user.current.json\"]");
    for good in ["sim.echo", "SIM.Echo", "sim.echo.json", "Sim.ECHO.JSON", "crm.deal.list", "CRM.Deal.List.json"] {
        let answer = trade(&proxy, good, json!({}));
        assert_eq!(answer.status, 200, "{good}: {}", answer.text());
    }
    let before = proxy.simulator.ledger().entries.len();
    for bad in ["profile", "PROFILE", "crm.deal.lists", "crm.deal.list.get", "xsim.echo", "simx.echo", "batch", "sim"] {
        let answer = trade(&proxy, bad, json!({}));
        assert_failure(&answer, 403, "forbidden");
        let text = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(text.contains(&bad.to_lowercase()) && text.contains("1c-trade"), "{text}");
    }
    assert_eq!(proxy.simulator.ledger().entries.len(), before, "nothing was sent");
    assert_eq!(trade(&proxy, "user.current", json!({})).status, 200, "the configuration may write the ending, too");
}

const BATCHES: &str = "methods = [\"sim.*\", \"batch\"]";

#[test]
fn a_restricted_clients_batch_is_rebuilt_so_that_its_own_bytes_do_not_reach_bitrix24() {
    let proxy = with_trade(BATCHES);
    let body = r#"{"method":"BATCH.json","params":{ "Cmd" : {"\u0061":"sim.echo?x[]=1&y=%D0%B9", "b":"SIM.Echo.json"},
                   "HALT": true, "other":[1,2], "AUTH":"x" }}"#;
    let answer = proxy.bare_request(body).bearer(TRADE).query("cmd[c]=profile&halt=0").run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    let sent = ledger.last_call().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&sent.body),
        r#"{"halt":1,"cmd":{"a":"sim.echo?x[]=1&y=%D0%B9","b":"SIM.Echo.json"}}"#
    );
    assert_eq!(sent.query, "");
    let results = &answer.json()["data"]["result"]["result"];
    assert_eq!(results["a"], json!({"x": ["1"], "y": "й"}));
}

#[test]
fn the_commands_of_a_restricted_clients_batch_may_be_a_list() {
    let proxy = with_trade(BATCHES);
    let answer = trade(&proxy, "batch", json!({"CMD": ["sim.echo?a=1", "sim.echo?a=2"]}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    let commands = &ledger.last_call().unwrap().call().unwrap().commands;
    let ran: Vec<_> = commands.iter().map(|c| (c.id.as_str(), c.method.as_str())).collect();
    assert_eq!(ran, [("0", "sim.echo"), ("1", "sim.echo")]);
}

#[test]
fn a_command_that_is_not_an_allowed_method_with_a_query_makes_the_whole_batch_403() {
    let proxy = with_trade(BATCHES);
    for params in [
        r#"{"cmd":["sim.echo","profile"]}"#,
        r#"{"cmd":{"a":"PROFILE?x=1"}}"#,
        r#"{"CMD":{"a":"profile"}}"#,
        r#"{"\u0043md":{"a":"profile"}}"#,
        r#"{"cmd":{"a":"sim.echo"},"CMD":{"a":"profile"}}"#,
        r#"{"cmd":{"a":"sim.echo"},"cmd":{"a":"profile"}}"#,
        r#"{"cmd":{"a":"sim.echo","a":"profile"}}"#,
        r#"{"cmd":{"a":"sim.echo","\u0061":"sim.fail"}}"#,
        r#"{"cmd":["https://evil.example/profile"]}"#,
        r#"{"cmd":["//evil.example/profile"]}"#,
        r#"{"cmd":["sim.echo/../profile"]}"#,
        r#"{"cmd":["sim.echo#profile"]}"#,
        r#"{"cmd":["/profile"]}"#,
        r#"{"cmd":["sim.echo:80/profile"]}"#,
        r#"{"cmd":[" profile"]}"#,
        r#"{"cmd":["profile\u0000"]}"#,
        r#"{"cmd":["%70rofile"]}"#,
        r#"{"cmd":["batch?cmd[a]=sim.echo"]}"#,
        r#"{"cmd":["Batch.JSON?cmd[a]=sim.echo"]}"#,
        r#"{"cmd":[{"method":"profile"}]}"#,
        r#"{"cmd":[["profile"]]}"#,
        r#"{"cmd":[7]}"#,
        r#"{"cmd":[null]}"#,
        r#"{"cmd":[""]}"#,
        r#"{"cmd":["?profile"]}"#,
        r#"{"cmd":"profile"}"#,
        r#"{"cmd":7}"#,
        r#"{"cmd":null}"#,
    ] {
        let answer = proxy.bare_request(format!(r#"{{"method":"batch","params":{params}}}"#)).bearer(TRADE).run();
        assert_eq!(failure(&answer), (403, "forbidden".into()), "{params}: {}", answer.text());
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn the_list_of_rest_3_is_checked_and_rebuilt() {
    let proxy = with_trade("methods = [\"tasks.task.get\", \"batch\"]");
    proxy.portal().seed("tasks.task", 2);
    let send = |params: &str| {
        let body = format!(r#"{{"method":"batch","version":3,"params":{params}}}"#);
        proxy.bare_request(body).bearer(TRADE).run()
    };
    let answer = send(
        r#"[ {"method":"Tasks.Task.Get", "query":{"id": 1},"as":"t"}, {"method":"tasks.task.get","query":{"id":2}} ]"#,
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    assert_eq!(
        String::from_utf8_lossy(&ledger.last_call().unwrap().body),
        "[{\"method\":\"Tasks.Task.Get\",\"query\":{\"id\": 1},\"as\":\"t\"},\
         {\"method\":\"tasks.task.get\",\"query\":{\"id\":2}}]"
    );
    let before = ledger.entries.len();
    for params in [
        r#"[{"method":"tasks.task.get"},{"method":"tasks.task.delete"}]"#,
        r#"{"0":{"method":"tasks.task.delete"}}"#,
        r#"[{"method":"tasks.task.get","method":"tasks.task.delete"}]"#,
        r#"[{"method":"tasks.task.get","\u006dethod":"tasks.task.delete"}]"#,
        r#"[{"method":"tasks.task.get","cmd":["tasks.task.delete"]}]"#,
        r#"[{"METHOD":"tasks.task.delete"}]"#,
        r#"[{"method":"batch"}]"#,
        r#"[{"method":["tasks.task.delete"]}]"#,
        r#"["tasks.task.delete"]"#,
        r#"{"0":{"method":"tasks.task.get"},"0":{"method":"tasks.task.delete"}}"#,
    ] {
        let answer = send(params);
        assert_eq!(failure(&answer), (403, "forbidden".into()), "{params}: {}", answer.text());
    }
    assert_eq!(proxy.simulator.ledger().entries.len(), before);
}

#[test]
fn an_unrestricted_clients_batch_is_passed_on_as_it_is() {
    let proxy = with_trade(BATCHES);
    let params = r#"{"halt": 0, "CMD":{"a":"profile", "b":"sim.echo?x=1"} }"#;
    let answer = proxy.request(format!(r#"{{"method":"batch","params":{params}}}"#)).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = String::from_utf8(proxy.simulator.ledger().last_call().unwrap().body.clone()).unwrap();
    assert_eq!(body, r#"{"halt": 0, "CMD":{"a":"profile", "b":"sim.echo?x=1"}}"#);
}

const SHOP: &str = "https://shop.acme.test";

fn with_shop() -> Proxy {
    with_security(&format!("cors_origins = [\"{SHOP}\", \"http://127.0.0.1:8080\"]"))
}

#[test]
fn a_page_of_another_site_cannot_make_a_browser_call() {
    let proxy = with_shop();
    let with = |name: &str, value: &str| proxy.request(PROFILE).header(name, value).run();
    for own in ["https://www.acme.test", SHOP, "http://127.0.0.1:8080"] {
        assert_eq!(with("Origin", own).status, 200, "{own}");
    }
    for alien in [
        "null",
        "",
        "https://evil.example",
        "http://www.acme.test",
        "https://www.acme.test:8443",
        "https://www.acme.test.evil.example",
        "https://shop.acme.test/",
        "https://shop.acme.test, https://evil.example",
        "http://127.0.0.1",
        "*",
    ] {
        assert_failure(&with("Origin", alien), 403, "forbidden");
    }
    for site in ["same-origin", "none"] {
        assert_eq!(with("Sec-Fetch-Site", site).status, 200, "{site}");
    }
    for site in ["cross-site", "same-site", "", "SAME-ORIGIN, none"] {
        assert_failure(&with("Sec-Fetch-Site", site), 403, "forbidden");
    }
    let allowed = proxy.request(PROFILE).header("Origin", SHOP).header("Sec-Fetch-Site", "cross-site").run();
    assert_eq!(allowed.status, 200, "Origin is there, so Sec-Fetch-Site does not count");
    let not_utf8 = proxy.request(PROFILE).env("HTTP_ORIGIN", OsStr::from_bytes(b"https://\xff")).run();
    assert_failure(&not_utf8, 403, "forbidden");
    let basic = proxy.bare_request(PROFILE).header("Authorization", &basic("", TOKEN)).header("Origin", "null").run();
    assert_failure(&basic, 403, "forbidden");
    assert_eq!(proxy.request(PROFILE).run().status, 200, "1C sends neither");
}

const CORS: [&str; 5] = [
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Headers",
    "Access-Control-Expose-Headers",
    "Access-Control-Max-Age",
];

#[test]
fn a_configured_origin_may_read_answers_and_refusals_and_no_other_may() {
    let proxy = with_shop();
    for (answer, status) in [
        (proxy.request(PROFILE).header("Origin", SHOP).run(), 200),
        (proxy.bare_request(PROFILE).header("Origin", SHOP).run(), 401),
        (proxy.request("nonsense").header("Origin", SHOP).run(), 400),
    ] {
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(SHOP));
        assert_eq!(answer.header("Vary"), Some("Origin"));
        assert!(answer.header("Access-Control-Expose-Headers").unwrap().contains("X-Request-Id"));
        assert_eq!(answer.header("Access-Control-Allow-Credentials"), None);
    }
    for origin in ["https://evil.example", "null", "https://www.acme.test"] {
        let answer = proxy.request(PROFILE).header("Origin", origin).run();
        assert!(CORS.iter().all(|name| answer.header(name).is_none()), "{origin}: {:?}", answer.headers);
    }
}

#[test]
fn a_preflight_is_answered_for_configured_origins_without_credentials() {
    let proxy = with_shop();
    let preflight = |origin: &str| {
        let request = Cgi::new(&proxy.sandbox).method("OPTIONS").header("Origin", origin);
        request
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,content-type")
            .run()
    };
    let answer = preflight(SHOP);
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(SHOP));
    assert!(answer.header("Access-Control-Allow-Methods").unwrap().split(", ").any(|method| method == "POST"));
    let headers = answer.header("Access-Control-Allow-Headers").unwrap().to_ascii_lowercase();
    for name in ["authorization", "content-type", "idempotency-key"] {
        assert!(headers.split(", ").any(|allowed| allowed == name), "{name}: {headers}");
    }
    let refused = preflight("https://evil.example");
    assert_failure(&refused, 403, "forbidden");
    assert!(CORS.iter().all(|name| refused.header(name).is_none()), "{:?}", refused.headers);
}

#[test]
fn without_cors_origins_there_are_no_cors_headers_at_all() {
    let proxy = Proxy::installed();
    let preflight = Cgi::new(&proxy.sandbox).method("OPTIONS").header("Origin", SHOP).run();
    assert_failure(&preflight, 405, "method_not_supported");
    assert_eq!(preflight.header("Allow"), Some("POST"), "what was just refused is not offered");
    let own = proxy.request(PROFILE).header("Origin", "https://www.acme.test").run();
    assert_eq!(own.status, 200);
    for answer in [preflight, own, proxy.request(PROFILE).header("Origin", SHOP).run()] {
        assert!(CORS.iter().all(|name| answer.header(name).is_none()), "{:?}", answer.headers);
    }
}

/// Starts a request, waits for its decision in the log while no byte of the body has been sent, then ends it.
fn decided_without_body(request: Cgi) -> Answer {
    let mut running = request.spawn();
    eventually("the decision is in the log", || running.stderr().ends_with('\n'));
    assert!(running.is_running(), "the rest of the body is still awaited");
    running.end_body();
    running.wait()
}

#[test]
fn credentials_address_size_and_page_are_decided_before_the_body_is_read() {
    let proxy = with_security("allowed_ips = [\"127.0.0.1\"]");
    let body = "x".repeat(1000);
    let huge = Some(100 << 20);
    for (request, status) in [
        (proxy.bare_request(&*body).bearer("wrong"), 401),
        (proxy.bare_request(&*body), 401),
        (proxy.request(&*body).env("REMOTE_ADDR", "192.0.2.1"), 403),
        (proxy.request(&*body).header("Origin", "https://evil.example"), 403),
        (proxy.request(&*body).content_length(huge), 413),
        (proxy.request(&*body).content_length(huge).bearer("wrong"), 401),
        (proxy.request(&*body).content_length(huge).env("REMOTE_ADDR", "192.0.2.1"), 403),
        (proxy.bare_request("").form("event=X").content_length(Some((64 << 10) + 1)), 413),
    ] {
        let answer = decided_without_body(request);
        assert_eq!(failure(&answer).0, status, "{}", answer.text());
    }
}

#[test]
fn portal_and_method_are_decided_after_the_body() {
    let proxy = with_trade("methods = [\"sim.*\"]");
    let mut running = proxy.bare_request(PROFILE).bearer(TRADE).spawn();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(running.stderr(), "", "nothing can be decided yet");
    running.write(PROFILE.as_bytes()).unwrap();
    assert_failure(&running.wait(), 403, "forbidden");
}

#[test]
fn a_refused_requests_body_is_read_to_its_end_but_a_huge_one_is_not_waited_for() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_body = \"1 MiB\"");
    // More than a pipe holds, so that a program that does not read blocks the writer.
    let half = vec![b'x'; 512 << 10];
    let mut running = proxy.bare_request(half.repeat(2)).bearer("wrong").spawn();
    running.write(&half).unwrap();
    assert!(running.is_running());
    running.write(&half).unwrap();
    assert_failure(&running.wait(), 401, "unauthorized");

    // Announced is more than is ever read: the answer does not wait for the rest.
    let mut running = proxy.request("").content_length(Some(10 << 30)).spawn();
    for _ in 0..10 {
        // It may have ended meanwhile.
        let _ = running.write(&half);
    }
    let answer = running.wait();
    assert_failure(&answer, 413, "body_too_large");
    assert!(answer.elapsed.as_secs() < 5, "{:?}", answer.elapsed);
}

#[test]
fn a_body_of_max_body_is_read_and_one_byte_more_is_413_however_it_comes() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_body = 300000");
    let body = |length: usize| {
        let empty = r#"{"method":"sim.echo","params":{"a":""}}"#;
        empty.replace(r#""""#, &format!("\"{}\"", "x".repeat(length - empty.len())))
    };
    for announced in [true, false] {
        let send = |body: String| {
            let request = proxy.request(body);
            if announced { request } else { request.content_length(None) }.run()
        };
        let answer = send(body(300_000));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["data"]["result"]["a"].as_str().unwrap().len(), 300_000 - 39);
        let answer = send(body(300_001));
        assert_failure(&answer, 413, "body_too_large");
        assert!(answer.json()["error"].as_str().unwrap().contains("max_body"), "{}", answer.text());
    }
}

#[test]
fn an_announced_length_takes_no_memory() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_body = \"1000 GiB\"");
    let mut running = proxy.request("").content_length(Some(900 << 30)).as_cgi().spawn();
    running.write(b"{\"method\":").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let peak = running.max_rss().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB");
    running.end_body();
    assert_failure(&running.wait(), 400, "invalid_request");
}

#[test]
fn without_credentials_only_a_form_is_read_and_at_most_64_kib() {
    let proxy = Proxy::installed();
    let form =
        |length: usize| format!("event=ONSOMETHING&data={}", "x".repeat(length - "event=ONSOMETHING&data=".len()));
    for announced in [true, false] {
        let send = |length: usize| {
            let request = proxy.bare_request("").form(&form(length));
            if announced { request } else { request.content_length(None) }.run()
        };
        assert_eq!(send(64 << 10).status, 200);
        assert_failure(&send((64 << 10) + 1), 413, "body_too_large");
    }
    for content_type in ["application/json", "text/plain", "multipart/form-data; boundary=x", ""] {
        let request = proxy.bare_request("event=ONSOMETHING").header("Content-Type", content_type);
        assert_failure(&request.run(), 401, "unauthorized");
    }
    for content_type in ["application/x-www-form-urlencoded; charset=UTF-8", "Application/X-WWW-Form-URLEncoded"] {
        let request = proxy.bare_request("event=ONSOMETHING").header("Content-Type", content_type);
        assert_eq!(request.run().status, 200, "{content_type}");
    }
}

#[test]
fn a_401_tells_whether_no_token_arrived_or_one_that_is_not_known() {
    let proxy = Proxy::installed();
    let text = |answer: Answer| {
        assert_failure(&answer, 401, "unauthorized");
        answer.json()["error"].as_str().unwrap().to_owned()
    };
    let none = text(proxy.bare_request(PROFILE).run());
    assert!(none.starts_with("No token arrived") && none.contains("check --url"), "{none}");
    for nothing in [
        proxy.bare_request(PROFILE).env("HTTP_AUTHORIZATION", " ").env("HTTP_X_B24PROXY_TOKEN", ""),
        proxy.bare_request("").form("neither=1"),
        Cgi::new(&proxy.sandbox).path("/status"),
        Cgi::new(&proxy.sandbox).path("/file").query("portal=acme&address=x"),
    ] {
        assert_eq!(text(nothing.run()), none);
    }
    // Nothing tells how near it was: another's token, a right one with another's name, none at all behind the name.
    let unknown = text(proxy.bare_request(PROFILE).bearer("wrong").run());
    assert!(unknown.starts_with("This token is not known") && !unknown.contains("web server"), "{unknown}");
    let basic = |user: &str, token: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{token}")));
    for wrong in [
        proxy.bare_request(PROFILE).env("HTTP_AUTHORIZATION", basic("auth_token", "wrong")),
        proxy.bare_request(PROFILE).env("HTTP_AUTHORIZATION", basic("auth_token", "")),
        proxy.bare_request(PROFILE).env("REDIRECT_HTTP_AUTHORIZATION", format!("Bearer {TOKEN}x")),
        proxy.bare_request(PROFILE).env("HTTP_X_B24PROXY_TOKEN", "wrong"),
        Cgi::new(&proxy.sandbox).path("/status").bearer("wrong"),
    ] {
        assert_eq!(text(wrong.run()), unknown);
    }
    let client = format!("[[security.clients]]\nname = \"1c\"\ntoken = \"{TOKEN}\"");
    let proxy = proxy.reconfigured(&format!("auth_token = \"{TOKEN}\""), &client);
    let right_token = proxy.bare_request(PROFILE).env("HTTP_AUTHORIZATION", basic("somebody", TOKEN)).run();
    assert_eq!(text(right_token), unknown);
    for unreadable in [TOKEN.to_owned(), format!("Token {TOKEN}"), "Digest x".to_owned(), "Basic ???".to_owned()] {
        let told = text(proxy.bare_request(PROFILE).env("HTTP_AUTHORIZATION", &unreadable).run());
        assert!(told.contains("must be \"Bearer TOKEN\"") && !told.contains(TOKEN), "{told}");
    }
}

#[test]
fn a_form_with_neither_event_nor_auth_id_is_401() {
    let proxy = Proxy::installed();
    for form in ["a=1", "", "EVENT=x", "auth_id=x", "xevent=1", "%00", "&&&", "domain=acme&method=profile"] {
        assert_failure(&proxy.bare_request("").form(form).run(), 401, "unauthorized");
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn with_credentials_any_content_type_is_read_as_json() {
    let proxy = Proxy::installed();
    for content_type in ["application/x-www-form-urlencoded", "text/plain", "", "multipart/form-data"] {
        let answer = proxy.request(PROFILE).header("Content-Type", content_type).run();
        assert_eq!(answer.status, 200, "{content_type}: {}", answer.text());
    }
    assert_eq!(proxy.request(PROFILE).without("CONTENT_TYPE").run().status, 200);
    let form = proxy.request("event=ONAPPINSTALL").header("Content-Type", "application/x-www-form-urlencoded").run();
    assert_failure(&form, 400, "invalid_request");
}

#[test]
fn a_refused_caller_learns_nothing_of_the_configuration() {
    let proxy = with_trade("ips = [\"192.0.2.0/24\"]");
    for answer in [
        proxy.bare_request(PROFILE).run(),
        proxy.bare_request(PROFILE).bearer("wrong").run(),
        proxy.bare_request(PROFILE).bearer(TRADE).run(),
        proxy.get("/health").run(),
    ] {
        let text = answer.text();
        for word in [&proxy.portal().name(), "192.0.2", TRADE, TOKEN, "/b24proxy/", "acme"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
        assert_eq!(lines(&answer.stderr).len(), 1);
    }
}
