//! Contract sections 1 and 5.4: which OAuth server is asked, and what is said where portal and configuration disagree.
//!
//! Bitrix24's own two are reached through a proxy, which leads one of their names to the simulator's OAuth server and the
//! other one to a server that knows nothing. Programs believe them for the roots that they have built in alone, so in the
//! copy of the executable under test one of these roots has the key of the simulator's authority.

use crate::fixture::*;
use crate::outbound::{asked, HttpProxy, Way};
use crate::visitor::*;
use serde_json::json;
use simulator::{Action, Fault, Options, Target, BUILT_IN_ROOT};
use std::process::Command;
use support::cgi::Answer;

const TECH: &str = "oauth.bitrix24.tech";
const INFO: &str = "oauth.bitrix.info";

struct World {
    proxy: Proxy,
    outbound: HttpProxy,
}

/// A portal of this OAuth server, and a configuration without `oauth_server`.
fn world(name: &'static str) -> World {
    let proxy = Proxy::with(Options { oauth_name: Some(name), ..Options::default() });
    believe(&proxy);
    let other = if name == TECH { INFO } else { TECH };
    let other_port = proxy.simulator.listen_other_oauth().unwrap();
    let ways = [(name, proxy.simulator.oauth_port()), (other, other_port)];
    let outbound = HttpProxy::start("127.0.0.1", Way::Map(ways));
    let line = format!("oauth_server  = \"https://{name}\"");
    let proxy = proxy.reconfigured(&line, &outbound.line(""));
    World { proxy, outbound }
}

/// Gives a root in the executable the key of the simulator's authority.
fn believe(proxy: &Proxy) {
    let is_named = |der: &[u8]| der.ends_with(BUILT_IN_ROOT.as_bytes());
    let root = webpki_roots::TLS_SERVER_ROOTS.iter().find(|root| is_named(&root.subject)).expect("a root of this name");
    let (known, own) = (&root.subject_public_key_info, proxy.simulator.authority_key());
    let known = &known[known.len() - own.len()..];
    let program = proxy.sandbox.executable();
    let mut bytes = std::fs::read(&program).unwrap();
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes, known).collect();
    assert!(!places.is_empty(), "the executable has this root");
    for at in places {
        bytes[at..at + own.len()].copy_from_slice(&own);
    }
    let folder = proxy.sandbox.path();
    std::fs::write(folder.join("changed"), bytes).unwrap();
    // By another process: what this one has open for writing cannot be started while a thread forks.
    let script =
        "install -m 755 changed cgi-bin/b24proxy.new && mv cgi-bin/b24proxy.new cgi-bin/b24proxy && rm changed";
    assert!(Command::new("/bin/sh").args(["-c", script]).current_dir(folder).status().unwrap().success());
}

impl World {
    /// Which OAuth servers were asked, in this order, and nobody but them and the portal.
    #[track_caller]
    fn asked(&self) -> Vec<String> {
        let portal = self.proxy.portal().name();
        let mut hosts = Vec::new();
        for host in self.outbound.seen().iter().map(|head| asked(head)).filter(|host| *host != portal) {
            let name = host.strip_suffix(":443").unwrap_or(&host).to_owned();
            assert!([TECH, INFO].contains(&name.as_str()), "{host} was contacted");
            hosts.push(name);
        }
        // Nobody came by another way.
        assert_eq!(self.proxy.simulator.ledger().all_connections(), self.outbound.seen().len() as u64);
        hosts
    }

    fn configured(self, line: &str) -> World {
        World { proxy: self.proxy.reconfigured("connect_timeout", &format!("{line}\nconnect_timeout")), ..self }
    }

    fn configured_for_portal(self, line: &str) -> World {
        World { proxy: self.proxy.reconfigured("aliases", &format!("{line}\naliases")), ..self }
    }

    fn profile(&self) -> Answer {
        self.proxy.call("profile", json!({}))
    }

    /// The way back of an installation at which the portal names this OAuth server.
    fn install_naming(&self, server: &str, language: &str) -> Answer {
        let begun = self.proxy.begin();
        let query = format!("{}&server_domain={server}", begun.query(&self.proxy.portal().issue_code(1)));
        let request = self.proxy.get("/callback").query(&query).header("Cookie", &begun.cookie);
        self.proxy.followed(request.header("Accept-Language", language).run())
    }

    /// What fails by `check`, but for the databases of tests, which are not durable.
    fn failures(&self) -> Vec<serde_json::Value> {
        let found: Vec<serde_json::Value> = serde_json::from_str(&self.check()).unwrap();
        let fails = |line: &serde_json::Value| line["status"] == "fail" && line["check"] != "database durability";
        found.into_iter().filter(fails).collect()
    }

    fn check(&self) -> String {
        let check = self.proxy.sandbox.command_line(&["check", "--json"]).output().unwrap();
        String::from_utf8_lossy(&check.stdout).into_owned()
    }
}

#[test]
fn the_server_that_the_portal_names_is_asked_on_every_way_in_and_at_every_refresh() {
    for name in [TECH, INFO] {
        type Way = fn(&World, &'static str) -> Answer;
        let ways: [Way; 3] = [
            |world, name| world.install_naming(name, "en"),
            |world, _| world.proxy.open_as(1),
            |world, _| world.proxy.post_event(&world.proxy.portal().event_form("ONAPPINSTALL")),
        ];
        for way in ways {
            let world = world(name);
            let answer = way(&world, name);
            assert_eq!(answer.status, 200, "{name} {} {}", answer.text(), answer.stderr);
            assert_eq!(world.proxy.stored()["server_endpoint"], format!("https://{name}/rest/"));
            world.proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
            let answer = world.profile();
            assert_eq!(answer.status, 200, "{name} {}", answer.text());
            assert_ne!(world.proxy.stored()["refreshed_at"], 0);
            assert_eq!(world.asked(), [name, name]);
            let check = world.check();
            assert!(check.contains(&format!("{name} answers")), "{check}");
            assert!(!check.contains("OAuth servers") && !check.contains("the portal names"), "{check}");
        }
    }
}

#[test]
fn a_stored_pair_goes_to_its_server_endpoint_and_failing_that_to_bitrix_info() {
    for (name, stored) in [
        (TECH, json!("https://oauth.bitrix24.tech/rest/")),
        (INFO, json!("https://oauth.bitrix.info/rest/")),
        (INFO, json!("")),
        (INFO, json!("https://evil.example/rest/")),
        (INFO, json!("https://oauth.bitrix24.tech.evil.example/rest/")),
        (INFO, json!("https://oauth.bitrix24.tech:8443/rest/")),
        (INFO, json!("https://oauth.bitrix24.tech@evil.example/rest/")),
    ] {
        let world = world(name);
        world.proxy.store_expired_pair(&world.proxy.portal().issue_pair(1));
        world.proxy.change_stored(|tokens| tokens["server_endpoint"] = stored.clone());
        let answer = world.profile();
        assert_eq!(answer.status, 200, "{stored} {}", answer.text());
        assert_eq!(world.asked(), [name], "{stored}");
        assert_eq!(world.proxy.stored()["server_endpoint"], format!("https://{name}/rest/"));
    }
}

#[test]
fn what_the_token_answer_names_is_kept_only_where_it_can_be_asked() {
    for (named, kept) in [(TECH, TECH), ("evil.example", INFO), ("evil.example/?oauth.bitrix24.tech", INFO), ("", INFO)]
    {
        let world = world(INFO);
        world.proxy.store_expired_pair(&world.proxy.portal().issue_pair(1));
        let mut pair = world.proxy.portal().issue_pair(1).to_json();
        pair["server_endpoint"] = json!(format!("https://{named}/rest/"));
        let action = Action::Status { status: 200, content_type: "application/json".into(), body: pair.to_string() };
        world.proxy.simulator.inject(Fault::once(Target::Token, action));
        assert_eq!(world.profile().status, 200);
        assert_eq!(world.proxy.stored()["server_endpoint"], format!("https://{kept}/rest/"), "{named}");
        world.proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
        world.proxy.change_stored(|tokens| tokens["refreshed_at"] = json!(0));
        world.profile();
        assert_eq!(world.asked(), [INFO, kept], "{named}");
    }
}

#[test]
fn a_new_installation_of_a_portal_that_does_not_say_it_goes_by_its_name() {
    let world = world(TECH);
    let names = ["acme.bitrix24.ru", "acme.bitrix24.by", "acme.bitrix24.kz", "acme.bitrix24.com", "acme.bitrix24.de"];
    let sections = names.map(|name| format!("[portals.\"{name}\"]\n")).concat();
    let proxy = world.proxy.reconfigured("[security]", &format!("{sections}[security]"));
    let world = World { proxy, ..world };
    for name in names {
        let begun = world.proxy.begin_at(name);
        // No server knows this code.
        assert!(matches!(world.proxy.come_back(&begun, &"c".repeat(70)).status, 400 | 502), "{name}");
    }
    assert_eq!(world.asked(), [TECH, TECH, TECH, INFO, INFO]);
    // It is said.
    let begun = world.proxy.begin_at("acme.bitrix24.de");
    let answer = world.proxy.come_back(&begun, &"c".repeat(70));
    let text = page(&answer, 502).replace("&quot;", "\"").replace("&#34;", "\"");
    assert_says(
        &text,
        &["nothing says which", "oauth_server = \"https://oauth.bitrix24.tech\" under [portals.\"acme.bitrix24.de\"]"],
    );
}

#[test]
fn where_nobody_has_named_a_server_a_refused_code_or_token_is_told_with_the_other_one() {
    let world = world(INFO);
    let line =
        format!("oauth_server = \"https://oauth.bitrix24.tech\" under [portals.\"{}\"]", world.proxy.portal().name());
    let plain = |text: &str| text.replace("&quot;", "\"").replace("&#34;", "\"");
    let begun = world.proxy.begin();
    let spent = "c".repeat(70);
    let text = plain(&page(&world.proxy.come_back(&begun, &spent), 400));
    assert_says(&text, &["The code has been used already", "Nothing says which", &line]);
    let query = format!("{}&LANG=ru", begun.query(&spent));
    let text = plain(&page(&world.proxy.callback(&query, Some(&begun.cookie)), 400));
    assert_says(
        &text,
        &["Код уже использован", "Неизвестно, какой из двух серверов", &line.replace("under", "в разделе")],
    );

    // Where it is named, there is no doubt.
    let query = format!("{}&server_domain={INFO}", begun.query(&spent));
    let text = page(&world.proxy.callback(&query, Some(&begun.cookie)), 400);
    assert!(text.contains("The code has been used already") && !text.contains("oauth_server"), "{text}");
    assert!(world.asked().iter().all(|name| name == INFO));
}

#[test]
fn nobody_but_bitrix24s_own_two_is_ever_asked_whatever_portals_and_strangers_name() {
    for named in [
        "evil.example",
        "oauth.bitrix24.tech.evil.example",
        "oauth.bitrix24.tech:8443",
        "oauth.bitrix24.tech%40evil.example",
        "evil.example/oauth.bitrix24.tech",
        "oauth.bitrix24.tech%23.evil.example",
        "%D0%BEauth.bitrix24.tech",
        "127.0.0.1:9",
        "%00",
        "%1B%5B31m%0A",
    ] {
        let world = world(INFO);
        let answer = world.install_naming(named, "en");
        let text = page(&answer, 200);
        assert_says(&answer.stderr, &["\"level\":\"warn\"", "OAuth server"]);
        assert!(text.contains("OAuth server") && !text.contains('\u{1b}'), "{text}");
        // It would get the client secret.
        assert!(!text.contains("oauth_server = "), "nobody is advised to write what somebody has named: {text}");
        assert!(!answer.stderr.contains('\u{1b}'), "{}", answer.stderr);
        assert_eq!(world.proxy.stored()["server_endpoint"], "https://oauth.bitrix.info/rest/", "{named}");
        assert_eq!(world.asked(), [INFO], "{named}");
        world.proxy.portal().uninstall();

        let form = world.proxy.portal().frame_form(1);
        let own = "SERVER_ENDPOINT=https%3A%2F%2Foauth.bitrix.info%2Frest%2F";
        assert!(form.body.contains(own), "{}", form.body);
        let posted = form.body.replace(own, &format!("SERVER_ENDPOINT=https%3A%2F%2F{named}%2Frest%2F"));
        let answer = support::cgi::Cgi::new(&world.proxy.sandbox).query(&form.query).form(&posted).run();
        page(&answer, 200);
        let event = world.proxy.portal().event_form("ONAPPINSTALL");
        let posted = event.replace("oauth.bitrix.info", named);
        assert_ne!(event, posted);
        assert_eq!(world.proxy.post_event(&posted).status, 200);
        assert!(world.asked().iter().all(|name| name == INFO), "{named}");
    }
}

#[test]
fn a_wrong_oauth_server_is_said_on_pages_in_calls_in_the_log_and_by_check_and_what_is_said_mends_it() {
    let world = world(TECH).configured("oauth_server = \"https://oauth.bitrix.info\"");
    let line =
        format!("oauth_server = \"https://oauth.bitrix24.tech\" under [portals.\"{}\"]", world.proxy.portal().name());
    let plain = |text: &str| text.replace("&quot;", "\"").replace("&#34;", "\"");

    let answer = world.install_naming(TECH, "en");
    assert_says(&plain(&page(&answer, 502)), &["Perhaps the wrong OAuth server", "https://oauth.bitrix.info", &line]);
    assert_says(&answer.stderr, &["Perhaps the wrong OAuth server", TECH]);
    let answer = world.install_naming(TECH, "ru");
    let russian = line.replace("under", "в разделе");
    assert_says(
        &plain(&page(&answer, 502)),
        &["Возможно, не тот сервер авторизации", "https://oauth.bitrix.info", &russian],
    );
    page(&world.proxy.open_as(1), 502);
    let event = world.proxy.post_event(&world.proxy.portal().event_form("ONAPPINSTALL"));
    assert_failure(&event, 502, "oauth_server_error");
    assert_says(event.json()["error"].as_str().unwrap(), &[&line]);
    assert_eq!(world.proxy.stored_bytes(), None);

    world.proxy.store_pair(&world.proxy.portal().issue_pair(1));
    let check = world.check().replace("\\\"", "\"");
    assert_says(&check, &[&line]);
    world.proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
    let answer = world.profile();
    assert_failure(&answer, 502, "oauth_server_error");
    assert_says(answer.json()["error"].as_str().unwrap(), &["oauth.bitrix.info answered invalid_client", &line]);
    assert_says(&answer.stderr.replace("\\\"", "\""), &[&line]);
    let check = world.check().replace("\\\"", "\"");
    assert_eq!(check.matches(line.as_str()).count(), 1, "said once: {check}");
    assert!(world.asked().iter().all(|name| name == INFO), "only the configured one is asked");

    // As it says.
    std::thread::sleep(std::time::Duration::from_secs(10));
    let world = world.configured_for_portal("oauth_server = \"https://oauth.bitrix24.tech\"");
    assert_eq!(world.profile().status, 200);
    world.proxy.a_minute_passes();
    page(&world.install_naming(TECH, "en"), 200);
    let check = world.check();
    assert!(!check.contains("and the portal names"), "{check}");
}

/// Writes into `proxy.toml` what is told to be written there, word for word: `oauth_server = "…" under [portals."…"]`.
fn as_told(world: World, told: &str) -> World {
    let from = told.find("write oauth_server = ").unwrap_or_else(|| panic!("{told}")) + "write ".len();
    let (line, section) = told[from..].split_once(" under ").unwrap();
    let section = &section[..=section.find(']').unwrap()];
    World { proxy: world.proxy.reconfigured(section, &format!("{section}\n{line}")), ..world }
}

#[test]
fn the_one_line_that_is_printed_of_a_wrong_oauth_server_mends_it_followed_word_for_word() {
    for (wrong, right) in [(INFO, TECH), (TECH, INFO)] {
        // Calls fail, or will when the access token has expired.
        for expires_at in [1, unix_now() + 20] {
            let world = world(right).configured(&format!("oauth_server = \"https://{wrong}\""));
            world.proxy.store_pair(&world.proxy.portal().issue_pair(1));
            world.proxy.change_stored(|tokens| tokens["expires_at"] = json!(expires_at));
            let failed = world.failures();
            assert_eq!(failed.len(), 1, "{failed:#?}");
            let (text, cure) = (failed[0]["text"].as_str().unwrap(), failed[0]["cure"].as_str().unwrap());
            assert_says(text, &[&format!("{wrong} answered invalid_client")]);
            assert_says(cure, &[&format!("the portal names {right}")]);
            let status = world.proxy.sandbox.command_line(&["status", "--json"]).output().unwrap();
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
            assert_eq!(status["data"]["portals"][0]["cure"], cure);

            let world = as_told(world, cure);
            // For so long a refusal is shared.
            std::thread::sleep(std::time::Duration::from_secs(11));
            assert_eq!(world.failures(), [json!(null); 0]);
            assert!(!world.check().contains("the portal names"));
            assert_eq!(world.profile().status, 200);
        }
        // The page of an installation says the same.
        let world = world(right).configured(&format!("oauth_server = \"https://{wrong}\""));
        let text = page(&world.install_naming(right, "en"), 502).replace("&#34;", "\"");
        let world = as_told(world, &text);
        page(&world.install_naming(right, "en"), 200);
        assert!(!world.check().contains("the portal names"));
    }
}

#[test]
fn a_pair_that_its_server_does_not_know_is_told_with_the_server() {
    let world = world(TECH);
    world.proxy.store_expired_pair(&world.proxy.portal().issue_pair(1));
    world.proxy.change_stored(|tokens| tokens["server_endpoint"] = json!("https://oauth.bitrix.info/rest/"));
    let answer = world.profile();
    assert_failure(&answer, 502, "oauth_server_error");
    assert_says(&answer.text(), &["oauth.bitrix.info answered invalid_client", "not on this portal"]);
    assert_says(&world.check(), &["oauth.bitrix.info answered invalid_client"]);
    // Of no server, as an import may leave it.
    let world = self::world(TECH);
    world.proxy.store_expired_pair(&world.proxy.portal().issue_pair(1));
    world.proxy.change_stored(|tokens| tokens["server_endpoint"] = json!(""));
    let answer = world.profile();
    assert_failure(&answer, 502, "oauth_server_error");
    assert_says(&answer.text(), &["nothing says which", "https://oauth.bitrix24.tech"]);
}

#[test]
fn a_server_that_was_named_and_not_asked_is_said_where_the_one_that_was_asked_refuses() {
    let world = world(INFO);
    world.proxy.store_pair(&world.proxy.portal().issue_pair(1));
    world.proxy.change_stored(|tokens| tokens["server_endpoint"] = json!("https://oauth.own.example/rest/"));
    assert_says(&world.check(), &["names oauth.own.example", "is never asked"]);
    world.proxy.portal().revoke_refresh_tokens();
    world.proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
    let answer = world.profile();
    assert_failure(&answer, 409, "reinstall_required");
    assert_says(
        answer.json()["error"].as_str().unwrap(),
        &["invalid_grant", "names oauth.own.example", "install?portal="],
    );
    assert_says(&answer.stderr, &["names oauth.own.example"]);
    let status = world.proxy.get("/status").bearer(TOKEN).run();
    assert_says(&status.text(), &["names oauth.own.example"]);
    assert_eq!(world.check().matches("names oauth.own.example").count(), 1, "{}", world.check());

    let begun = world.proxy.begin();
    let query = format!("{}&server_domain=oauth.own.example", begun.query(&"c".repeat(70)));
    let text = page(&world.proxy.callback(&query, Some(&begun.cookie)), 502);
    assert_says(&text, &["oauth.bitrix.info does not know", "names oauth.own.example"]);
    assert!(world.asked().iter().all(|name| name == INFO));
}

#[test]
fn an_own_oauth_server_for_one_portal_counts_before_the_general_one() {
    let proxy = Proxy::not_installed();
    let own = proxy.simulator.oauth_url();
    let general = proxy.config().lines().find(|line| line.starts_with("oauth_server")).unwrap().to_owned();
    let proxy = proxy
        .reconfigured(&general, "oauth_server = \"https://oauth.bitrix24.tech\"")
        .reconfigured("aliases", &format!("oauth_server = \"{own}\"\naliases"));
    page(&proxy.install_in_browser(1), 200);
    proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    assert_eq!(proxy.asked_oauth(), 2);
}

#[test]
fn an_ended_trial_and_a_plan_without_rest_are_told_apart() {
    let proxy = Proxy::installed();
    proxy.portal().set_payment_required(true);
    proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 502, "oauth_server_error");
    assert_says(&answer.text(), &["PAYMENT_REQUIRED", "trial or paid period is over", "subscription"]);
    assert!(!answer.text().contains("plan does not include"), "{}", answer.text());

    for (status, words) in [
        (401, "REST is available only on commercial plans"),
        (403, "REST API is available only on commercial plans."),
        (401, "REST is available only by subscription."),
    ] {
        let proxy = Proxy::installed();
        let refusal = || Action::ErrorJson { status, error: "ACCESS_DENIED".into(), error_description: words.into() };
        proxy.portal().inject(Fault::once(Target::Method("profile".into()), refusal()));
        let answer = proxy.call("profile", json!({}));
        assert_failure(&answer, status, "bitrix24_error");
        assert_says(&answer.text(), &[words.trim_end_matches('.'), "no access to the REST API", "subscription"]);
        assert!(!answer.text().contains("administrator who installed"), "{}", answer.text());

        for (language, title, why) in [
            ("en", "The portal&#39;s plan has no REST API", words.trim_end_matches('.')),
            ("ru", "На тарифе портала нет REST API", "Битрикс24 ответил ACCESS_DENIED: "),
        ] {
            proxy.portal().inject(Fault::once(Target::Method("profile".into()), refusal()));
            let begun = proxy.begin();
            let query = begun.query(&proxy.portal().issue_code(1));
            let request = proxy.get("/callback").query(&query).header("Cookie", &begun.cookie);
            let text = page(&request.header("Accept-Language", language).run(), 403);
            assert_says(&text, &[title, why]);
        }
        proxy.portal().inject(Fault::once(Target::Method("profile".into()), refusal()));
        assert_failure(&proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")), status, "bitrix24_error");
    }
    // Another refusal of access is none of the plan's.
    let proxy = Proxy::installed();
    let refusal = Action::ErrorJson { status: 403, error: "ACCESS_DENIED".into(), error_description: "no".into() };
    proxy.portal().inject(Fault::once(Target::Method("profile".into()), refusal));
    let answer = proxy.call("profile", json!({}));
    assert!(!answer.text().contains("no access to the REST API"), "{}", answer.text());
}

#[test]
fn the_page_of_success_advises_a_service_administrator() {
    let proxy = Proxy::not_installed();
    assert_says(&page(&proxy.install_in_browser(1), 200), &["under a service administrator"]);
    proxy.portal().uninstall();
    assert_says(&page(&proxy.open_as(1), 200), &["служебного администратора"]);
}
