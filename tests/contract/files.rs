//! Contract section 2, "Files": what comes from addresses that Bitrix24 has answered, and what goes to them.

use crate::fixture::*;
use crate::footprint::released;
use base64::Engine;
use serde_json::{json, Value};
use simulator::{Action, Auth, Content, Fault, File, Portal, Target, TokenPlace};
use support::cgi::{Answer, Cgi};

const MIB: u64 = 1 << 20;

/// An installed proxy whose application may use the disk.
pub fn with_files() -> Proxy {
    let proxy = Proxy::not_installed();
    proxy.portal().set_scope("crm,catalog,disk,documentgenerator");
    proxy.store_pair(&proxy.portal().issue_pair(1));
    proxy
}

/// The same as a client that may call `disk.*` alone.
pub fn restricted() -> Proxy {
    let proxy = with_files().reconfigured(
        &format!("auth_token = \"{TOKEN}\""),
        &format!("[[security.clients]]\nname = \"disk\"\ntoken = \"{TOKEN}\"\nmethods = [\"disk.*\", \"batch\"]"),
    );
    proxy.portal().set_lenient_rest3_batch(false);
    proxy
}

/// The address of a stored file, as the envelope's client gets it.
pub fn address_of(proxy: &Proxy, file: i64) -> String {
    let answer = proxy.call("disk.file.get", json!({ "id": file }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"]["result"]["DOWNLOAD_URL"].as_str().expect("an address").to_owned()
}

pub fn encoded(text: &str) -> String {
    serde_urlencoded::to_string([("", text)]).unwrap().trim_start_matches('=').to_owned()
}

pub fn asked<'p>(proxy: &'p Proxy, address: &str) -> Cgi<'p> {
    proxy.get("/file").bearer(TOKEN).query(&format!("portal=acme&address={}", encoded(address)))
}

/// An address, and what can be read in the base64 of what is signed in it.
fn readable(address: &str) -> String {
    let fields: Vec<(String, String)> = serde_urlencoded::from_str(address.split_once('?').unwrap().1).unwrap();
    let token = &fields.iter().find(|(name, _)| name == "token").expect("a token").1;
    let read = |part| base64::engine::general_purpose::STANDARD.decode(part).unwrap_or_default();
    let parts = token.split(['|', '.']).map(|part| String::from_utf8_lossy(&read(part)).into_owned());
    [address.to_owned()].into_iter().chain(parts).collect::<Vec<_>>().join("\n")
}

fn text_file(portal: &Portal) -> (i64, Vec<u8>) {
    let bytes = "Счёт №1\n".repeat(1000).into_bytes();
    let mut file = File::new("Счёт №1.txt", Content::given(bytes.clone()));
    file.content_type = "text/plain; charset=utf-8".into();
    (portal.store_file(file), bytes)
}

pub fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error_code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_download_has_bitrix24s_type_length_and_disposition_and_every_byte() {
    let proxy = restricted();
    let (file, bytes) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    assert!(!address.contains("auth="), "{address}");
    let answer = asked(&proxy, &address).run();
    assert_eq!((answer.status, &answer.body), (200, &bytes), "{}", answer.stderr);
    assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("Content-Length"), Some(&*bytes.len().to_string()));
    assert!(answer.header("Content-Disposition").is_some_and(|value| value.contains("filename")));
    assert_eq!(answer.header("Content-Security-Policy"), Some("sandbox"));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let ledger = proxy.simulator.ledger();
    let call = ledger.last_call().unwrap();
    assert_eq!((call.http_method.as_str(), call.body.len()), ("GET", 0));
    assert_eq!(call.call().unwrap().token_place, TokenPlace::Header);
}

#[test]
fn range_is_passed_on_and_206_304_and_416_pass_with_their_fields() {
    let proxy = restricted();
    let (file, bytes) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    let part = asked(&proxy, &address).header("Range", "bytes=10-19").run();
    assert_eq!((part.status, part.body.as_slice()), (206, &bytes[10..20]), "{}", part.stderr);
    assert_eq!(part.header("Content-Range"), Some(&*format!("bytes 10-19/{}", bytes.len())));
    assert_eq!(part.header("Content-Length"), Some("10"));
    let beyond = asked(&proxy, &address).header("Range", "bytes=999999-").run();
    assert_eq!(beyond.status, 416, "{}", beyond.stderr);
    assert_eq!(beyond.header("Content-Range"), Some(&*format!("bytes */{}", bytes.len())));
    if let Some(tag) = part.header("ETag") {
        let same = asked(&proxy, &address).header("If-None-Match", tag).run();
        assert_eq!((same.status, same.body.len()), (304, 0));
    }
}

#[test]
fn head_tells_the_length_without_the_file() {
    let proxy = restricted();
    let (file, bytes) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    let answer = asked(&proxy, &address).method("HEAD").run();
    assert_eq!((answer.status, answer.body.len()), (200, 0), "{}", answer.stderr);
    assert_eq!(answer.header("Content-Length"), Some(&*bytes.len().to_string()));
}

#[test]
fn a_file_without_a_disposition_is_an_attachment() {
    let proxy = restricted();
    let mut file = File::new("page.html", Content::given("<script>alert(1)</script>"));
    (file.content_type, file.disposition) = ("text/html".into(), None);
    let file = proxy.portal().store_file(file);
    let address = address_of(&proxy, file);
    let answer = asked(&proxy, &address).run();
    assert_eq!((answer.status, answer.header("Content-Disposition")), (200, Some("attachment")), "{}", answer.text());
    assert_eq!(answer.header("Content-Security-Policy"), Some("sandbox"));
}

#[test]
fn a_large_file_needs_less_than_12_mib_of_memory() {
    let proxy = released(restricted());
    let size = 100 * MIB;
    let file = proxy.portal().seed_file("large.bin", size);
    let address = address_of(&proxy, file);
    let answer = asked(&proxy, &address).measure_memory().run();
    assert_eq!((answer.status, answer.body.len() as u64), (200, size), "{}", answer.stderr);
    let peak = answer.max_rss.expect("GNU time");
    assert!(peak < 12 << 10, "{peak} KiB");
}

#[test]
fn an_address_with_a_masked_auth_gets_the_same_token_back_and_no_header() {
    let proxy = restricted();
    proxy.portal().set_strips_authorization(true);
    let (file, bytes) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    let token = proxy.stored()["access_token"].as_str().unwrap().to_owned();
    assert!(address.contains(&format!("auth={}", name_of(&token))), "{address}");
    let shown = readable(&address);
    assert!(!shown.contains(&token) && shown.matches(&name_of(&token)).count() == 2, "{shown}");
    let answer = asked(&proxy, &address).run();
    assert_eq!((answer.status, &answer.body), (200, &bytes), "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    let call = ledger.last_call().unwrap();
    assert_eq!(call.header("Authorization"), None);
    assert_eq!(call.call().unwrap().auth, Auth::Token(token.clone()));

    // The token is renewed, and what was signed with the old one is gone. Nobody is contacted.
    let before = proxy.simulator.ledger().entries.len();
    proxy.change_stored(|tokens| tokens["access_token"] = "another-token-that-is-stored-now".into());
    let gone = asked(&proxy, &address).run();
    assert_eq!(code(&gone), (410, "file_address_expired".into()));
    assert_eq!(proxy.simulator.ledger().entries.len(), before);
}

#[test]
fn where_the_header_is_swallowed_an_address_without_auth_is_410() {
    let proxy = restricted();
    let (file, _) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    proxy.portal().set_strips_authorization(true);
    let answer = asked(&proxy, &address).run();
    assert_eq!(code(&answer), (410, "file_address_expired".into()), "{}", answer.text());
}

#[test]
fn whatever_is_no_address_of_a_file_of_this_portal_is_400_and_nothing_is_contacted() {
    let proxy = restricted();
    let (file, _) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    let host = proxy.portal().name();
    let before = proxy.simulator.ledger().entries.len();
    for bad in [
        String::new(),
        address.replace("download.json", "batch.json"),
        address.replace("/rest/", "/rest/api/"),
        address.replace("/rest/", "/other/"),
        address.replace("https://", "http://"),
        address.replace(&host, "evil.example"),
        address.replace("token=", "token[]="),
        address.replace("token=", "%74oken="),
        format!("{address}&cmd[a]=user.get"),
        format!("{address}&token=x"),
        format!("{address}&auth=4f9a0166006e2b8700005a4e"),
        format!("{address}#x"),
        format!("{address}&"),
        address.split("token=").next().unwrap().to_owned(),
        address.replace("download.json", "down%6coad.json"),
        address.replace("/rest/", &format!("/rest/1/{}/", name_of("no webhook of this portal"))),
    ] {
        let answer = asked(&proxy, &bad).run();
        assert_eq!(code(&answer), (400, "invalid_request".into()), "{bad}: {}", answer.text());
    }
    assert_eq!(proxy.simulator.ledger().entries.len(), before);
}

#[test]
fn who_may_not_use_the_portal_gets_no_file() {
    let proxy = restricted();
    let (file, _) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    let query = format!("portal=acme&address={}", encoded(&address));
    assert_eq!(code(&proxy.get("/file").query(&query).run()), (401, "unauthorized".into()));
    assert_eq!(code(&proxy.get("/file").query(&query).bearer("not-the-token-of-anybody").run()).0, 401);
    let unknown = query.replace("portal=acme", "portal=other.example.org");
    assert_eq!(code(&proxy.get("/file").query(&unknown).bearer(TOKEN).run()), (404, "unknown_portal".into()));
    let keyed = proxy.get("/file").query(&query).bearer(TOKEN).header("Idempotency-Key", "k");
    assert_eq!(code(&keyed.run()), (400, "invalid_request".into()));
    assert_eq!(
        proxy.get("/file").method("PUT").query(&query).bearer(TOKEN).run().header("Allow"),
        Some("GET, HEAD, POST")
    );
}

#[test]
fn an_error_that_bitrix24_answers_instead_is_the_failure_envelope_with_its_status() {
    let proxy = restricted();
    let (file, _) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    let action = Action::ErrorJson { status: 403, error: "ACCESS_DENIED".into(), error_description: "no".into() };
    proxy.simulator.inject(Fault::once(Target::Download, action));
    let answer = asked(&proxy, &address).run();
    assert_failure(&answer, 403, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "ACCESS_DENIED");
    let forged = address.replace("token=", "token=x");
    let answer = asked(&proxy, &forged).run();
    assert_eq!(code(&answer).1, "bitrix24_error", "a signature that is not right: {}", answer.text());
}

#[test]
fn a_redirect_is_not_followed_and_its_host_is_named() {
    let proxy = restricted();
    let (file, _) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    let location = "https://evil.example/x?secret".to_owned();
    proxy.simulator.inject(Fault::once(Target::Download, Action::Redirect302(location)));
    let answer = asked(&proxy, &address).run();
    assert_failure(&answer, 502, "bitrix24_bad_answer");
    assert!(answer.text().contains("evil.example") && !answer.text().contains("secret"), "{}", answer.text());
}

#[test]
fn an_expired_token_is_refreshed_and_the_file_comes() {
    let proxy = restricted();
    let (file, bytes) = text_file(&proxy.portal());
    let address = address_of(&proxy, file);
    proxy.portal().expire_access_tokens();
    let answer = asked(&proxy, &address).run();
    assert_eq!((answer.status, &answer.body), (200, &bytes), "{}", answer.text());
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}

#[test]
fn a_file_above_max_file_is_refused_before_a_byte_of_it() {
    let proxy = restricted().reconfigured("max_wait = 5", "max_wait = 5\nmax_file = \"1 MiB\"");
    let file = proxy.portal().seed_file("large.bin", MIB + 1);
    let address = address_of(&proxy, file);
    let answer = asked(&proxy, &address).run();
    assert_failure(&answer, 502, "bitrix24_bad_answer");
    assert!(answer.text().contains("max_file"), "{}", answer.text());
}

/// A webhook's call, answered as Bitrix24 does.
fn hook<'p>(proxy: &'p Proxy, path: &str) -> Cgi<'p> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    Cgi::new(&proxy.sandbox).path(path).query(query)
}

#[test]
fn in_answers_to_webhook_clients_addresses_of_files_lead_through_the_program() {
    for strips in [false, true] {
        let proxy = restricted();
        proxy.portal().set_strips_authorization(strips);
        let (file, bytes) = text_file(&proxy.portal());
        let answer = hook(&proxy, &format!("/rest/1/{TOKEN}/disk.file.get?id={file}")).run();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let read: Value = answer.json();
        let address = read["result"]["DOWNLOAD_URL"].as_str().unwrap();
        let own = format!("https://www.acme.test/cgi-bin/b24proxy/rest/1/{TOKEN}/");
        let rest = address.strip_prefix(&own).unwrap_or_else(|| panic!("{address}"));
        assert!(
            rest.starts_with("download.json?") && answer.text().contains("\\/cgi-bin\\/b24proxy\\/"),
            "{}",
            answer.text()
        );
        let file = hook(&proxy, &format!("/rest/1/{TOKEN}/{rest}")).run();
        assert_eq!((file.status, &file.body), (200, &bytes), "{}", file.text());
    }
}

#[test]
fn a_webhooks_address_with_a_token_is_a_file_or_nothing() {
    let proxy = restricted();
    let before = proxy.simulator.ledger().entries.len();
    for path in [
        "user.get?token=x&cmd=1",
        "batch?token=x",
        "download?token=x&token=y",
        "download?to%6ben=x",
        "user.get?a=1&token[]=x",
    ] {
        let answer = hook(&proxy, &format!("/rest/1/{TOKEN}/{path}")).run();
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert_eq!(answer.json()["error"], "INVALID_REQUEST");
    }
    assert_eq!(proxy.simulator.ledger().entries.len(), before);
    // A signature that is not right is the portal's to refuse.
    let forged = hook(&proxy, &format!("/rest/1/{TOKEN}/crm.deal.list?token=forged")).run();
    assert!(matches!(forged.status, 403 | 404), "{}", forged.text());
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.list"), 0);
}

#[test]
fn with_a_portals_webhook_its_code_is_put_back_where_its_name_stands() {
    let proxy = with_files();
    let webhook = format!("aliases = [\"acme\"]\nwebhook = \"{}\"", proxy.portal().webhook_url());
    let proxy = proxy.reconfigured("aliases = [\"acme\"]", &webhook);
    let (file, bytes) = text_file(&proxy.portal());
    let secret = proxy.portal().webhook_url().trim_end_matches('/').rsplit('/').next().unwrap().to_owned();
    let answer = proxy.call("disk.file.get", json!({ "id": file }));
    assert!(!answer.text().contains(&secret), "{}", answer.text());
    let address = answer.json()["data"]["result"]["DOWNLOAD_URL"].as_str().unwrap().to_owned();
    let shown = readable(&address);
    assert!(!shown.contains(&secret) && shown.matches(&name_of(&secret)).count() == 2, "{shown}");
    let answer = asked(&proxy, &address).run();
    assert_eq!((answer.status, &answer.body), (200, &bytes), "{}", answer.text());
    let other = address.replace(&name_of(&secret), &name_of("a webhook of before"));
    assert_eq!(code(&asked(&proxy, &other).run()), (410, "file_address_expired".into()));
    // By the webhook routes too.
    let answer = hook(&proxy, &format!("/rest/1/{TOKEN}/disk.file.get?id={file}")).run();
    let read = answer.json();
    let rewritten = read["result"]["DOWNLOAD_URL"].as_str().unwrap();
    let path =
        rewritten.strip_prefix("https://www.acme.test/cgi-bin/b24proxy").unwrap_or_else(|| panic!("{rewritten}"));
    assert_eq!(hook(&proxy, path).run().body, bytes);
}
