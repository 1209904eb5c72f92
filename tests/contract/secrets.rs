//! Contract section 5.5: whatever Bitrix24 or the OAuth server answers, no secret is shown; and how the access token travels.

use crate::fixture::*;
use crate::logging::lines;
use serde_json::{json, Value};
use simulator::{spellings, Action, Auth, Content, Fault, File, LeakAs, Options, Target, TokenPair, TokenPlace};
use std::process::Stdio;
use std::time::Duration;
use support::cgi::{Answer, Cgi};

const KEY: &str = "Idempotency-Key";

/// An installed proxy with the portal's application token too, over plain http.
fn installed() -> Proxy {
    installed_with(true)
}

fn installed_with(https: bool) -> Proxy {
    let proxy = Proxy::with(Options { https, ..Options::default() });
    let portal = proxy.portal();
    portal.grant("disk,documentgenerator");
    portal.set_lenient_rest3_batch(false);
    store(&proxy, &portal.issue_pair(1), unix_now() + 3600);
    proxy
}

fn store(proxy: &Proxy, pair: &TokenPair, expires_at: i64) {
    let mut tokens = token_file(pair, proxy.simulator.client_id(), expires_at);
    tokens["application_token"] = proxy.portal().application_token().into();
    proxy.store(&tokens);
}

/// The portal by its own webhook.
fn by_webhook() -> Proxy {
    let proxy = installed();
    let line = format!("aliases = [\"acme\"]\nwebhook = \"{}\"", proxy.portal().webhook_url());
    proxy.reconfigured("aliases = [\"acme\"]", &line)
}

fn with_log_file(proxy: Proxy) -> Proxy {
    proxy.reconfigured("[log]", "[log]\nfile = \"proxy.log\"")
}

/// What must not be seen of the portal: its stored tokens and client secret, or its webhook's code.
fn secrets(proxy: &Proxy) -> Vec<String> {
    if proxy.config().contains("webhook = ") {
        return vec![code_of(&proxy.portal().webhook_url())];
    }
    let tokens = proxy.stored();
    let mut secrets = vec![proxy.portal().key_pair().client_secret];
    for name in ["access_token", "refresh_token", "application_token"] {
        secrets.push(tokens[name].as_str().unwrap().to_owned());
    }
    assert!(secrets.iter().all(|secret| secret.len() > 8), "{secrets:?}");
    secrets
}

fn code_of(webhook: &str) -> String {
    webhook.trim_end_matches('/').rsplit('/').next().unwrap().to_owned()
}

#[track_caller]
fn assert_hidden(secrets: &[String], text: &str, what: &str) {
    for secret in secrets {
        for spelling in spellings(secret) {
            assert!(!text.contains(&spelling), "{what}: {spelling} is shown: {text}");
        }
    }
}

#[track_caller]
fn assert_named(secrets: &[String], text: &str, what: &str) {
    for secret in secrets {
        assert!(text.contains(&name_of(secret)), "{what}: {secret} has no name in {text}");
    }
}

/// All that a caller and the web server see.
fn seen(answer: &Answer) -> String {
    format!("{} {:?}\n{}\n{}", answer.status, answer.headers, answer.text(), answer.stderr)
}

/// The log file, and all that is kept beside the tokens.
fn kept(proxy: &Proxy) -> String {
    let own = format!("{}.{}", proxy.stem(), if proxy.sandbox.database().is_some() { "kept" } else { "json" });
    let mut text = std::fs::read_to_string(proxy.sandbox.path().join("b24proxy/proxy.log")).unwrap_or_default();
    if let Some(database) = proxy.sandbox.database() {
        text += &database.texts();
    }
    let mut folders = vec![proxy.sandbox.tokens()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if !path.file_name().unwrap().to_string_lossy().starts_with(&own) {
                text += &String::from_utf8_lossy(&std::fs::read(&path).unwrap());
            }
        }
    }
    text
}

/// What a command writes, both streams.
fn command(proxy: &Proxy, arguments: &[&str]) -> String {
    let output = proxy.sandbox.command_line(arguments).stdin(Stdio::null()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn hook<'p>(proxy: &'p Proxy, method: &str, call: &str) -> Cgi<'p> {
    let address = format!("/rest/{}1/{TOKEN}/{call}", if method == "V3" { "api/" } else { "" });
    let (path, query) = address.split_once('?').unwrap_or((&address, ""));
    Cgi::new(&proxy.sandbox).method(method.replace("V3", "POST").as_str()).path(path).query(query)
}

/// A method with a few parameters, called in every way there is.
fn ways<'p>(proxy: &'p Proxy, method: &str, params: &Value) -> Vec<(&'static str, Cgi<'p>)> {
    let query = serde_urlencoded::to_string(params.as_object().unwrap().iter().collect::<Vec<_>>()).unwrap();
    let command = format!("{method}?{query}");
    let (one, batch) = (json!({ "method": method, "params": params }), json!({ "cmd": { "a": command } }));
    let calls = json!({ "calls": [one] });
    let envelope = |body: &Value| proxy.request(body.to_string());
    let post = || hook(proxy, "POST", method).json(params.to_string());
    let in_query = serde_urlencoded::to_string([("cmd[a]", &command)]).unwrap();
    vec![
        ("envelope", envelope(&one)),
        ("webhook GET", hook(proxy, "GET", &command)),
        ("webhook POST", post()),
        ("webhook form", hook(proxy, "POST", &format!("{method}.json")).form(&query)),
        ("batch", envelope(&json!({ "method": "batch", "params": batch }))),
        ("webhook batch", hook(proxy, "GET", &format!("batch?{in_query}"))),
        ("calls", envelope(&calls)),
        ("with a key", envelope(&one).header(KEY, "k")),
        ("with a key again", envelope(&one).header(KEY, "k")),
        ("calls with a key", envelope(&calls).header(KEY, "m")),
        ("calls with a key again", envelope(&calls).header(KEY, "m")),
        ("webhook with a key", post().header(KEY, "w")),
        ("webhook with a key again", post().header(KEY, "w")),
    ]
}

/// The same of REST 3.0, and lists.
fn other_ways<'p>(proxy: &'p Proxy, method: &str, params: &Value) -> Vec<(&'static str, Cgi<'p>)> {
    let list = json!([{ "method": method, "query": params }]).to_string();
    vec![
        ("REST 3.0", proxy.request(json!({ "method": method, "params": params, "version": 3 }).to_string())),
        ("REST 3.0 by webhook", hook(proxy, "V3", method).json(params.to_string())),
        ("REST 3.0 batch", hook(proxy, "V3", "batch").json(list)),
        ("all", proxy.request(json!({ "method": method, "params": params, "all": true }).to_string())),
        ("XML", hook(proxy, "POST", &format!("{method}.xml")).json(params.to_string())),
    ]
}

/// `as` and statuses of `sim.leak`.
const LEAKS: [(&str, &[u16]); 5] = [
    ("success", &[200]),
    ("error", &[400, 200]),
    ("error_code", &[403, 500]),
    ("rest3_error", &[400]),
    ("html", &[502]),
];

fn no_way_shows_a_secret(make: fn() -> Proxy) {
    std::thread::scope(|scope| {
        for (i, (shape, statuses)) in LEAKS.into_iter().enumerate() {
            scope.spawn(move || {
                for status in statuses {
                    let proxy = if i % 2 == 0 { with_log_file(make()) } else { make() };
                    let secrets = secrets(&proxy);
                    let params = json!({ "as": shape, "status": status });
                    for (way, request) in ways(&proxy, "sim.leak", &params) {
                        let what = format!("{way}, {shape} {status}");
                        let answer = request.run();
                        assert_hidden(&secrets, &seen(&answer), &what);
                        // What was not executed for certain is not repeated, and a page is nothing that Bitrix24 answers.
                        if shape == "success" || (shape != "html" && answer.status != 409) {
                            assert_named(&secrets, &answer.text(), &what);
                        }
                        let is_kept = shape == "success" || way.starts_with("calls");
                        let is_replayed = answer.header("Idempotent-Replayed").is_some();
                        assert_eq!(is_replayed, is_kept && way.ends_with("key again"), "{what}: {}", seen(&answer));
                    }
                    for (way, request) in other_ways(&proxy, "sim.leak", &params) {
                        assert_hidden(&secrets, &seen(&request.run()), &format!("{way}, {shape} {status}"));
                    }
                    let kept = kept(&proxy);
                    assert_hidden(&secrets, &kept, &format!("kept, {shape} {status}"));
                    if shape == "success" {
                        assert_named(&secrets, &kept, "kept");
                    }
                }
            });
        }
    });
}

#[test]
fn no_answer_error_kept_answer_or_log_shows_a_token_or_client_secret_that_bitrix24_repeats() {
    no_way_shows_a_secret(installed);
}

#[test]
fn no_answer_error_kept_answer_or_log_shows_a_webhooks_code_that_bitrix24_repeats() {
    no_way_shows_a_secret(by_webhook);
}

#[test]
fn no_command_shows_a_secret_that_bitrix24_repeats() {
    let leak = |shape: &str, status: u16| json!({ "as": shape, "status": status }).to_string();
    for proxy in [installed(), with_log_file(by_webhook())] {
        let secrets = secrets(&proxy);
        for (shape, status) in [("success", 200), ("error_code", 400), ("rest3_error", 403), ("html", 502)] {
            let params = leak(shape, status);
            let one = json!({ "method": "sim.leak", "params": { "as": shape, "status": status } }).to_string();
            proxy.sandbox.write("calls.jsonl", 0o644, one.as_bytes());
            let file = proxy.sandbox.path().join("calls.jsonl").display().to_string();
            for arguments in [
                &["call", "acme", "sim.leak", &params][..],
                &["call", "acme", "sim.leak", &params, "--json"],
                &["call", "acme", "sim.leak", &params, "--v3"],
                &["call", "acme", "sim.leak", &params, "--all"],
                &["call", "acme", "--calls", &file],
                &["call", "acme", "--calls", &file, "--key", shape],
                &["call", "acme", "--calls", &file, "--key", shape],
            ] {
                let what = format!("{arguments:?}");
                let text = command(&proxy, arguments);
                assert_hidden(&secrets, &text, &what);
                if shape == "success" && !arguments.contains(&"--all") {
                    assert_named(&secrets, &text, &what);
                }
            }
        }
        for arguments in [&["status"][..], &["status", "--json"], &["check"], &["check", "--json"]] {
            assert_hidden(&secrets, &command(&proxy, arguments), &format!("{arguments:?}"));
        }
        assert_hidden(&secrets, &kept(&proxy), "kept");
    }
}

/// An OAuth server that answers this in place of tokens.
fn oauth_says(proxy: &Proxy, action: Action) {
    proxy.portal().inject(Fault::forever(Target::Token, action));
}

/// The status in every form.
fn statuses(proxy: &Proxy) -> String {
    let page = proxy.get("/status").bearer(TOKEN).header("Accept", "text/html").run();
    let json = proxy.get("/status").bearer(TOKEN).run();
    let commands = [&["status"][..], &["status", "--json"], &["check"]].map(|arguments| command(proxy, arguments));
    format!("{}{}{}", seen(&page), seen(&json), commands.concat())
}

#[test]
fn no_secret_that_the_oauth_server_repeats_is_shown_at_a_refresh_or_kept() {
    let shapes = [LeakAs::Success, LeakAs::Error, LeakAs::ErrorCode, LeakAs::Rest3Error, LeakAs::Html];
    for (shape, status) in shapes.into_iter().zip([200, 400, 401, 403, 502]) {
        let proxy = with_log_file(installed());
        let pair = proxy.portal().issue_pair(1);
        store(&proxy, &pair, unix_now() - 10);
        let secrets = secrets(&proxy);
        oauth_says(&proxy, proxy.portal().leak(&pair, shape, status));
        let mut text = seen(&proxy.call("profile", json!({})));
        text += &seen(&hook(&proxy, "GET", "profile").run());
        text += &statuses(&proxy);
        text += &command(&proxy, &["refresh", "--older-than", "0"]);
        text += &command(&proxy, &["call", "acme", "profile"]);
        assert_hidden(&secrets, &(text + &kept(&proxy)), &format!("{shape:?}"));
    }
}

#[test]
fn what_the_oauth_server_says_of_an_error_names_each_secret_in_its_place() {
    for error in ["invalid_grant", "invalid_client", "payment_required", "strange"] {
        for which in 0..4 {
            let proxy = installed();
            store(&proxy, &proxy.portal().issue_pair(1), unix_now() - 10);
            let secret = secrets(&proxy)[which].clone();
            let body = json!({ "error": error, "error_description": format!("x {secret} y") }).to_string();
            oauth_says(&proxy, Action::Status { status: 400, content_type: "application/json".into(), body });
            let answer = proxy.call("profile", json!({}));
            let text = seen(&answer) + &statuses(&proxy) + &kept(&proxy);
            assert_hidden(&secrets(&proxy), &text, error);
            assert_named(&[secret], &answer.text(), error);
        }
    }
}

#[test]
fn no_secret_that_stands_beside_new_tokens_is_shown_by_the_status() {
    let proxy = with_log_file(installed());
    let old = proxy.portal().issue_pair(1);
    store(&proxy, &old, unix_now() - 10);
    let mut all = secrets(&proxy);
    let new = proxy.portal().issue_pair(1);
    let body = json!({
        "access_token": new.access_token, "refresh_token": new.refresh_token, "expires_in": 3600,
        "client_endpoint": new.client_endpoint, "member_id": new.member_id, "user_id": 1,
        "domain": all[0], "server_endpoint": format!("https://{}/rest/", all[1]),
        "scope": format!("crm,{},{}\u{1b}[31m\u{202e}", new.access_token, all.join(",")),
    });
    oauth_says(&proxy, Action::Status { status: 200, content_type: "application/json".into(), body: body.to_string() });
    let answer = proxy.call("profile", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    all.extend([new.access_token.clone(), new.refresh_token]);
    let text = seen(&answer) + &statuses(&proxy) + &kept(&proxy);
    assert_hidden(&all, &text, "a refresh");
    assert!(text.contains(&name_of(&new.access_token)), "{text}");
    assert_no_controls(&text);
}

#[test]
fn no_secret_that_the_oauth_server_or_the_portal_repeats_is_shown_by_a_page_of_installation() {
    let shapes = [LeakAs::Success, LeakAs::Error, LeakAs::ErrorCode, LeakAs::Rest3Error, LeakAs::Html];
    for (shape, status) in shapes.into_iter().zip([200, 400, 500, 400, 200]) {
        for target in [Target::Token, Target::Call] {
            let proxy = with_log_file(installed());
            let portal = proxy.portal();
            let pair = portal.issue_pair(1);
            store(&proxy, &pair, unix_now() + 3600);
            let (frame, event) = (portal.frame_form(1), portal.event_form("ONAPPINSTALL"));
            let mut all = secrets(&proxy);
            all.extend([frame.access_token.clone(), frame.refresh_token.clone()]);
            let (begun, code) = (proxy.begin(), portal.issue_code(1));
            let mut faults = Vec::new();
            for (access, refresh) in
                [(&pair.access_token, &pair.refresh_token), (&frame.access_token, &frame.refresh_token)]
            {
                let (access_token, refresh_token) = (access.clone(), refresh.clone());
                let shown = TokenPair { access_token, refresh_token, ..pair.clone() };
                faults.push(portal.inject(Fault::times(3, target.clone(), portal.leak(&shown, shape, status))));
            }
            all.push(code.clone());
            let mut text = seen(&proxy.come_back(&begun, &code));
            text += &seen(&proxy.opening(&frame).run());
            text += &seen(&proxy.post_event(&event));
            // What a stranger has shown is no secret of a call that is made later.
            proxy.simulator.remove_fault(faults[1]);
            text += &statuses(&proxy);
            assert_hidden(&all, &(text + &kept(&proxy)), &format!("{shape:?} at {target:?}"));
        }
    }
}

#[test]
fn neither_a_redirect_nor_a_files_head_nor_a_page_in_its_place_shows_a_secret() {
    let proxy = installed();
    let secrets = secrets(&proxy);
    let token = &secrets[1];
    let file = proxy.portal().seed_file("a.bin", 1000);
    let address = proxy.call("disk.file.get", json!({ "id": file }));
    let address = address.json()["data"]["result"]["DOWNLOAD_URL"].as_str().unwrap().to_owned();
    let query = serde_urlencoded::to_string([("portal", "acme"), ("address", &address)]).unwrap();
    let redirect = |to: String| Action::Redirect302(to);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; {token}\r\nContent-Disposition: attachment; filename=\"{token}\"\r\n\
         ETag: \"{}\"\r\nX-{token}: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        secrets[0]
    );
    for action in [
        redirect(format!("https://{token}.example/{token}")),
        redirect(format!("https://{token}@evil.example/")),
        Action::RawInstead(head.clone().into_bytes()),
        Action::RawInstead(head.replace("200 OK", &format!("4xx {token}")).into_bytes()),
        Action::RawInstead(head.replace("X-", &format!("X {token}\0")).into_bytes()),
        Action::RawInstead(head.replace("filename=\"", "filename=\"Счёт ").into_bytes()),
        proxy.portal().leak(&pair_of(&proxy), LeakAs::Rest3Error, 403),
        proxy.portal().leak(&pair_of(&proxy), LeakAs::Html, 404),
        proxy.portal().leak(&pair_of(&proxy), LeakAs::Success, 200),
        // A page in a file's place, as where somebody is asked to log in.
        proxy.portal().leak(&pair_of(&proxy), LeakAs::Html, 200),
    ] {
        for target in [Target::Download, Target::Method("sim.echo".into())] {
            // A call that is redirected renews the tokens: the portal may have another address.
            if target != Target::Download && matches!(action, Action::Redirect302(_)) {
                continue;
            }
            proxy.simulator.inject(Fault::times(2, target.clone(), action.clone()));
            let requests = match target {
                Target::Download => vec![proxy.get("/file").bearer(TOKEN).query(&query)],
                _ => vec![proxy.request(r#"{"method":"sim.echo"}"#), hook(&proxy, "GET", "sim.echo")],
            };
            for request in requests {
                assert_hidden(&secrets, &seen(&request.run()), &format!("{target:?} {}", what(&action)));
            }
            proxy.simulator.clear_faults();
        }
    }
}

#[test]
fn no_answer_to_an_upload_shows_a_secret() {
    let shapes = [LeakAs::Success, LeakAs::Error, LeakAs::ErrorCode, LeakAs::Rest3Error, LeakAs::Html];
    for proxy in [installed(), by_webhook()] {
        let secrets = secrets(&proxy);
        let answer = proxy.call("disk.folder.uploadfile", json!({ "id": 8 }));
        let answer = answer.json();
        let address = answer["data"]["result"]["uploadUrl"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let query = serde_urlencoded::to_string([("portal", "acme"), ("address", address)]).unwrap();
        for (shape, status) in shapes.into_iter().zip([200, 400, 403, 401, 502]) {
            let action = proxy.portal().leak(&pair_of(&proxy), shape, status);
            proxy.simulator.inject(Fault::once(Target::Upload, action));
            let part = "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"";
            let post = proxy.get("/file").method("POST").bearer(TOKEN).query(&query);
            let post = post.header("Content-Type", "multipart/form-data; boundary=X");
            let answer = post.body(format!("--X\r\n{part}\r\n\r\ntext\r\n--X--\r\n")).run();
            assert_hidden(&secrets, &seen(&answer), &format!("{shape:?}"));
            if shape != LeakAs::Html {
                assert_named(&secrets, &answer.text(), &format!("{shape:?}"));
            }
        }
    }
}

fn what(action: &Action) -> String {
    match action {
        Action::RawInstead(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        action => format!("{action:?}"),
    }
}

/// The stored pair, as the simulator has it.
fn pair_of(proxy: &Proxy) -> TokenPair {
    let tokens = proxy.stored();
    let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
    TokenPair {
        access_token: text("access_token"),
        refresh_token: text("refresh_token"),
        ..proxy.portal().issue_pair(1)
    }
}

#[test]
fn no_secret_stands_in_the_process_list() {
    let proxy = installed();
    store(&proxy, &proxy.portal().issue_pair(1), unix_now() - 10);
    let mut all = secrets(&proxy);
    all.push(TOKEN.to_owned());
    proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
    let body = r#"{"method":"profile"}"#;
    let mut running = proxy.request(body).spawn();
    running.write(body.as_bytes()).unwrap();
    running.end_body();
    assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
    let listed: Vec<String> = proxy
        .sandbox
        .processes()
        .iter()
        .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect();
    assert!(listed.iter().any(|line| line.contains("refresher")), "{listed:?}");
    assert_hidden(&all, &listed.concat(), "the process list");
    proxy.simulator.release();
    assert_eq!(running.wait().status, 200);
}

/// A client that may call so little.
const LIMITED: &str = "methods = [\"disk.*\", \"crm.*\", \"documentgenerator.*\", \"batch\"]";

fn limited(proxy: Proxy) -> Proxy {
    let client = format!("[[security.clients]]\nname = \"limited\"\ntoken = \"{TOKEN}\"\n{LIMITED}");
    proxy.reconfigured(&format!("auth_token = \"{TOKEN}\""), &client)
}

#[test]
fn a_limited_client_obtains_no_secret_by_addresses_of_files() {
    for (make, strips) in [(installed as fn() -> Proxy, false), (installed, true), (by_webhook, false)] {
        let proxy = limited(make());
        let portal = proxy.portal();
        portal.set_strips_authorization(strips);
        let file = portal.store_file(File::new("Счёт.txt", Content::given("text")));
        portal.seed_items(31, 1);
        portal.attach_file("crm.item", 31, 1, "ufCrmFile", file);
        let document = portal.store_document("Счёт", file, Some(file), Some(file));
        let (secrets, mut repeated) = (secrets(&proxy), 0);
        for (method, params) in [
            ("disk.file.get", json!({ "id": file })),
            ("crm.item.get", json!({ "entityTypeId": 31, "id": 1 })),
            ("documentgenerator.document.get", json!({ "id": document })),
        ] {
            for (way, request) in ways(&proxy, method, &params) {
                let request = if way.contains("key") { continue } else { request };
                let what = format!("{method}, {way}, stripped: {strips}");
                let answer = request.run();
                assert_eq!(answer.status, 200, "{what}: {}", seen(&answer));
                assert!(answer.text().contains("token="), "{what}: {}", answer.text());
                assert_hidden(&secrets, &seen(&answer), &what);
                let sent = String::from_utf8(proxy.simulator.ledger().last_call().unwrap().answer.clone()).unwrap();
                repeated += usize::from(secrets.iter().any(|secret| sent.contains(secret)));
            }
        }
        // By the header nothing comes to be repeated at all.
        let from_header = !strips && !proxy.config().contains("webhook = ");
        assert_eq!(repeated == 0, from_header, "{repeated}");
        assert_eq!(proxy.call("profile", json!({})).status, 403);
        proxy.assert_no_secret(&proxy.call("user.current", json!({})));
    }
}

#[test]
fn a_limited_client_that_has_a_batch_store_an_address_of_a_file_reads_it_without_its_secret() {
    for (make, strips) in [(installed as fn() -> Proxy, true), (by_webhook, false)] {
        let proxy = limited(make());
        proxy.portal().set_strips_authorization(strips);
        let file = proxy.portal().seed_file("a.bin", 1000);
        let commands = json!({ "cmd": {
            "a": format!("disk.file.get?id={file}"),
            "b": "crm.deal.add?fields[TITLE]=$result[a][DOWNLOAD_URL]",
            "c": "crm.deal.get?id=$result[b]",
        } });
        let secrets = secrets(&proxy);
        let batch = proxy.call("batch", commands);
        assert!(batch.json()["data"]["result"]["result"]["c"]["TITLE"].is_string(), "{}", batch.text());
        assert_hidden(&secrets, &seen(&batch), "batch");
        for (way, request) in ways(&proxy, "crm.deal.list", &json!({ "start": 0 })) {
            let answer = request.run();
            assert!(answer.text().contains("token="), "{way}: {}", seen(&answer));
            assert_hidden(&secrets, &seen(&answer), way);
        }
        let ledger = proxy.simulator.ledger();
        let sent = String::from_utf8_lossy(&ledger.last_call().unwrap().answer).into_owned();
        assert!(secrets.iter().any(|secret| sent.contains(secret)), "the portal has stored it: {sent}");
    }
}

/// The files that keep answers.
fn change_kept(proxy: &Proxy, from: &str, to: &str) -> usize {
    assert_eq!(from.len(), to.len(), "the length stands in the file");
    let mut changed = 0;
    let mut folders = vec![proxy.sandbox.tokens().join("idempotency")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
            if text.contains(from) {
                let inside = path.strip_prefix(proxy.sandbox.path()).unwrap().display().to_string();
                proxy.sandbox.write(&inside, 0o600, text.replace(from, to).as_bytes());
                changed += 1;
            }
        }
    }
    changed
}

#[test]
fn answers_that_an_older_version_kept_with_a_secret_are_replayed_without_it() {
    let proxy = installed().on_files();
    for secret in secrets(&proxy) {
        let text = "P".repeat(secret.len());
        let params = json!({ "a": text });
        let requests = || ways(&proxy, "sim.echo", &params).into_iter().filter(|(way, _)| way.ends_with("key"));
        let keyed = |(way, request): (&str, Cgi<'_>)| request.header(KEY, &format!("{way} {}", name_of(&secret))).run();
        let first: Vec<Answer> = requests().map(keyed).collect();
        assert!(first.len() == 3 && first.iter().all(|answer| answer.text().contains(&text)), "{}", seen(&first[0]));
        assert!(change_kept(&proxy, &text, &secret) >= 1);
        let executed = proxy.simulator.ledger().all_calls().count();
        for ((way, request), first) in requests().zip(&first) {
            let answer = keyed((way, request));
            assert_eq!(answer.status, 200, "{way}: {}", seen(&answer));
            assert_eq!(answer.text(), first.text().replace(&text, &name_of(&secret)), "{way}");
            assert_hidden(std::slice::from_ref(&secret), &seen(&answer), way);
        }
        assert_eq!(proxy.simulator.ledger().all_calls().count(), executed);
    }
}

#[test]
fn an_answer_without_a_secret_passes_byte_for_byte() {
    let proxy = installed();
    let token = secrets(&proxy)[1].clone();
    let almost = format!("{} {}x", &token[1..], &token[..token.len() - 1]);
    let odd = [
        r#"{"result":{"a":"https:\/\/h\/x?y=%D0%A1%20%zz%&auth=1","b\/c":[]},"time":{}}"#.to_owned(),
        "{\"result\":\"Стол — «ok» 𝄞\u{feff}\u{a0}\u{7f}\"}".to_owned(),
        r#" {"result" :  "100% b24proxy- b24proxy-0123456789ab %62%32%34proxy-"} "#.to_owned() + "\r\n\t",
        r#"{"result":"\u0421\u0442 \"\\\/\b\f\n\r\t \ud834\udd1e \u005c\u0022 \\u0034","n":[1.50,1e5,-0,null]}"#
            .to_owned(),
        format!(r#"{{"result":"{almost}","{}":"%34%66 \u0034\u0066+%2B"}}"#, &token[..20]),
    ];
    for body in odd {
        let action = Action::Status { status: 200, content_type: "application/json".into(), body: body.clone() };
        proxy.simulator.inject(Fault::forever(Target::Method("sim.echo".into()), action));
        let params = json!({ "a": 1 });
        for (way, request) in
            ways(&proxy, "sim.echo", &params).into_iter().chain(other_ways(&proxy, "sim.echo", &params))
        {
            let answer = match way {
                "envelope" | "REST 3.0" => request.run(),
                "webhook GET" | "webhook POST" | "webhook form" | "REST 3.0 by webhook" => {
                    let answer = request.run();
                    assert_eq!(answer.text(), body, "{way}");
                    answer
                }
                _ => continue,
            };
            assert!(answer.text().contains(body.trim()), "{way}: {} for {body}", answer.text());
        }
        let output = proxy.sandbox.command_line(&["call", "acme", "sim.echo"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{body}\n"));
        proxy.simulator.clear_faults();
    }
}

/// C0 but for ends of lines, C1, DEL, and what turns the direction of writing.
fn is_control(c: char) -> bool {
    let turns = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'].contains(&c);
    (c.is_control() && c != '\n') || turns || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[track_caller]
fn assert_no_controls(text: &str) {
    let found: Vec<char> = text.chars().filter(|c| is_control(*c)).collect();
    assert!(found.is_empty(), "{found:?} in {text:?}");
}

/// A description with every control character, and sequences that a terminal obeys.
fn obeyed() -> String {
    let all = (0u8..32).chain(127..160).map(char::from).collect::<String>();
    format!("before \u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m \u{202e}turned\u{2066}\u{2028}\u{200f} {all} after")
}

/// A terminal's whole output for a command; `script` is that terminal.
fn on_terminal(proxy: &Proxy, words: &[&str], errors: &str) -> String {
    let line = words.iter().fold(proxy.sandbox.executable().display().to_string(), |line, word| {
        format!("{line} '{}'", word.replace('\'', "'\\''"))
    });
    let line = format!("{line} {errors}");
    let mut script = proxy.sandbox.command("script");
    let output = script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().expect("script");
    // The terminal itself makes a carriage return for an end of a line.
    String::from_utf8(output.stdout).expect("UTF-8").replace("\r\n", "\n")
}

#[test]
fn control_characters_of_bitrix24s_errors_reach_no_error_log_log_line_or_terminal() {
    for proxy in [installed(), with_log_file(installed())] {
        let description = obeyed();
        let raw: String = description.chars().filter(|c| *c >= ' ').collect();
        let json = "application/json".to_owned();
        for action in [
            Action::ErrorJson { status: 400, error: format!("E{description}"), error_description: description.clone() },
            Action::Status {
                status: 403,
                content_type: json.clone(),
                body: format!("{{\"error\":\"{raw}\",\"error_description\":\"{raw}\"}}"),
            },
            Action::Status {
                status: 400,
                content_type: json,
                body: json!({ "error": { "code": raw, "message": description, "validation": [{ "field": raw }] } })
                    .to_string(),
            },
        ] {
            proxy.simulator.inject(Fault::forever(Target::Method("profile".into()), action));
            for answer in [proxy.call("profile", json!({})), hook(&proxy, "GET", "profile").run()] {
                assert_eq!(answer.status / 100, 4, "{}", seen(&answer));
                assert_no_controls(&answer.stderr);
            }
            for arguments in [&["call", "acme", "profile"][..], &["call", "acme", "profile", "--json"]] {
                let text = on_terminal(&proxy, arguments, "");
                assert!(text.contains("before") && text.contains("after"), "{text:?}");
                assert_no_controls(&text);
                assert_no_controls(&command(&proxy, arguments));
            }
            proxy.simulator.clear_faults();
        }
        let log = std::fs::read_to_string(proxy.sandbox.path().join("b24proxy/proxy.log")).unwrap_or_default();
        assert_no_controls(&log);
        assert!(lines(&log)
            .iter()
            .flat_map(|line| line.as_object().unwrap().values().cloned().collect::<Vec<_>>())
            .all(|value| !value.as_str().unwrap_or_default().contains(is_control)));
    }
}

#[test]
fn a_terminal_gets_the_same_json_with_control_characters_escaped_and_a_pipe_every_byte() {
    let proxy = installed();
    let raw: String = obeyed().chars().filter(|c| *c >= ' ').collect();
    let body = format!("{{\"result\":[{{\"ID\":\"{raw}\"}}],\r\n\t\"total\":1}}");
    let action = Action::Status { status: 200, content_type: "application/json".into(), body: body.clone() };
    proxy.simulator.inject(Fault::forever(Target::Method("crm.deal.list".into()), action));
    for arguments in [
        &["call", "acme", "crm.deal.list"][..],
        &["call", "acme", "crm.deal.list", "--json"],
        &["call", "acme", "crm.deal.list", "--all"],
    ] {
        let shown = on_terminal(&proxy, arguments, "2>/dev/null");
        let piped = proxy.sandbox.command_line(arguments).output().unwrap();
        let piped = String::from_utf8(piped.stdout).unwrap();
        assert!(piped.contains(&raw), "{piped:?}");
        assert_no_controls(&shown.replace('\t', ""));
        assert!(
            shown.contains("before") && shown.contains("\\u009b31m") && shown.contains("\\u202eturned"),
            "{shown:?}"
        );
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        assert_eq!(read(&shown), read(&piped), "{arguments:?}");
    }
}

#[test]
fn control_characters_of_the_oauth_servers_errors_reach_no_log_line_or_terminal() {
    for error in ["invalid_grant", "strange \u{1b}[31m\u{202e}"] {
        let proxy = with_log_file(installed());
        store(&proxy, &proxy.portal().issue_pair(1), unix_now() - 10);
        let body = json!({ "error": error, "error_description": obeyed() }).to_string();
        oauth_says(&proxy, Action::Status { status: 400, content_type: "application/json".into(), body });
        let text = seen(&proxy.call("profile", json!({}))) + &statuses(&proxy) + &kept(&proxy);
        assert!(text.contains("before"), "{text}");
        assert_no_controls(&text);
        for arguments in [&["status"][..], &["call", "acme", "profile"], &["refresh", "--older-than", "0"]] {
            assert_no_controls(&on_terminal(&proxy, arguments, ""));
        }
    }
}

/// The requests for a method: where the token stood, and whether the method was run.
fn sent(proxy: &Proxy, method: &str) -> Vec<(TokenPlace, bool)> {
    let ledger = proxy.simulator.ledger();
    let of = |entry: &simulator::Entry| {
        let call = entry.call().unwrap();
        let place = if entry.header("Authorization").is_some() { TokenPlace::Header } else { call.token_place };
        (place, call.executed)
    };
    let sent = ledger.of_method(method).map(of).collect();
    drop(ledger);
    proxy.simulator.clear_ledger();
    sent
}

const BY_HEADER: (TokenPlace, bool) = (TokenPlace::Header, true);
const SWALLOWED: (TokenPlace, bool) = (TokenPlace::Header, false);
const IN_BODY: (TokenPlace, bool) = (TokenPlace::Body, true);

/// Makes what is known of the portal older.
fn age(proxy: &Proxy, seconds: i64) {
    let name = format!("{}.limits", proxy.stem());
    let text = String::from_utf8(proxy.sandbox.token_file(&name).expect("something is known")).unwrap();
    let (before, rest) = text.split_once("\"swallows_since\":").expect("the header is known to be swallowed");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let since = digits.parse::<i64>().unwrap() - seconds * 1000;
    proxy.sandbox.write_token_file(&name, &format!("{before}\"swallows_since\":{since}{}", &rest[digits.len()..]));
}

fn complaints(stderr: &str) -> usize {
    stderr.matches("keeps the Authorization header to itself").count()
}

#[test]
fn where_the_header_is_swallowed_the_call_is_executed_once_with_the_token_in_the_body_and_that_is_remembered() {
    let proxy = installed();
    proxy.portal().set_strips_authorization(true);
    let add = || proxy.call("crm.deal.add", json!({ "fields": { "TITLE": "a" } }));
    let first = add();
    assert_eq!((first.status, complaints(&first.stderr)), (200, 1), "{}", seen(&first));
    assert_eq!(lines(&first.stderr).last().unwrap()["repeated"], json!(["NO_AUTH_FOUND"]));
    assert_eq!(sent(&proxy, "crm.deal.add"), [SWALLOWED, IN_BODY]);
    for request in [
        proxy.request(r#"{"method":"crm.deal.add"}"#),
        hook(&proxy, "POST", "crm.deal.add").form("fields[TITLE]=b"),
        hook(&proxy, "GET", "crm.deal.add?fields[TITLE]=b"),
    ] {
        let answer = request.run();
        assert_eq!((answer.status, complaints(&answer.stderr)), (200, 0), "{}", seen(&answer));
        assert_eq!(sent(&proxy, "crm.deal.add"), [IN_BODY]);
    }

    age(&proxy, 24 * 3600 - 60);
    assert_eq!((add().status, sent(&proxy, "crm.deal.add")), (200, vec![IN_BODY]));
    age(&proxy, 60);
    let next_day = add();
    assert_eq!((next_day.status, complaints(&next_day.stderr)), (200, 1), "{}", seen(&next_day));
    assert_eq!(sent(&proxy, "crm.deal.add"), [SWALLOWED, IN_BODY]);
    assert_eq!((add().status, sent(&proxy, "crm.deal.add")), (200, vec![IN_BODY]));

    proxy.portal().set_strips_authorization(false);
    age(&proxy, 24 * 3600);
    for _ in 0..2 {
        let answer = add();
        assert_eq!((answer.status, complaints(&answer.stderr)), (200, 0), "{}", seen(&answer));
        assert_eq!(sent(&proxy, "crm.deal.add"), [BY_HEADER]);
    }
}

#[test]
fn callers_at_once_where_the_header_is_swallowed_execute_each_call_once_and_log_it_once() {
    let proxy = installed();
    proxy.portal().set_strips_authorization(true);
    let add = || proxy.call("crm.deal.add", json!({ "fields": { "TITLE": "a" } }));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(add)).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 8);
    assert_eq!(answers.iter().map(|answer| complaints(&answer.stderr)).sum::<usize>(), 1);
}

#[test]
fn a_token_that_is_wrong_is_not_taken_for_a_swallowed_header() {
    let proxy = installed();
    proxy.portal().revoke_access_tokens();
    let answer = proxy.call("crm.deal.add", json!({}));
    assert_eq!((answer.status, complaints(&answer.stderr)), (200, 0), "{}", seen(&answer));
    assert_eq!(sent(&proxy, "crm.deal.add"), [SWALLOWED, BY_HEADER]);
}

#[test]
fn a_rest_3_batch_works_as_list_and_map_by_envelope_and_webhook_where_the_portal_takes_nothing_beside_commands() {
    let proxy = installed();
    let token = secrets(&proxy)[1].clone();
    let list = json!([{ "method": "profile", "query": {} }, { "method": "profile", "query": {} }]);
    let map = json!({ "a": { "method": "profile", "query": {} }, "b": { "method": "profile", "query": {} } });
    for commands in [&list, &map] {
        let envelope = json!({ "method": "batch", "version": 3, "params": commands }).to_string();
        for request in [proxy.request(envelope), hook(&proxy, "V3", "batch").json(commands.to_string())] {
            let answer = request.run();
            assert_eq!(answer.status, 200, "{commands}: {}", seen(&answer));
            let ledger = proxy.simulator.ledger();
            let call = ledger.last_call().unwrap().call().unwrap();
            assert_eq!((call.token_place, call.commands.len()), (TokenPlace::Header, 2));
            assert_eq!((&call.auth, call.auth_parameters.len()), (&Auth::Token(token.clone()), 0));
        }
    }
}
