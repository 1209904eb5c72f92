//! The fenced blocks, and how each is run.

use crate::bsl::{literal, Module};
use crate::commands::shell;
use crate::fixture::*;
use crate::markdown::{documents, Block, Document};
use crate::{assert_shown, documented_proxy, platform, reported, shown_json};
use serde_json::Value;
use simulator::{Action, Content, Fault, File, Target};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use support::cgi::{Answer, SCRIPT_NAME};
use support::database::{shared, Kind, Server};

/// A block, by its document and its first line (or how that begins), and what runs it.
type Known = (&'static str, &'static str, fn(&Block));

const BLOCKS: &[Known] = &[
    ("README.md", "tests/demo.sh ", shell),
    ("README.md", "[bitrix24]", configuration),
    ("docs/databases.md", "CREATE ROLE b24proxy", made_in_postgres),
    ("docs/databases.md", "CREATE DATABASE b24proxy CHARACTER SET", made_in_mysql),
    ("docs/databases.md", "[storage]  # PostgreSQL", database),
    ("docs/databases.md", "[storage]  # MySQL", database),
    ("docs/databases.md", "b24proxy move --to -", moved),
    ("README.md", "    include snippets/b24proxy.conf;", included),
    ("README.md", "POST /cgi-bin/b24proxy HTTP/1.1", request),
    ("docs/calls.md", "POST /cgi-bin/b24proxy HTTP/1.1", request),
    ("docs/files.md", "GET /cgi-bin/b24proxy/file?", file_fetched),
    ("docs/files.md", "POST /cgi-bin/b24proxy/file?", file_sent),
    ("docs/calls.md", r#"{"success":false,"#, not_installed),
    ("docs/many-calls.md", r#"{"domain":"acme.bitrix24.ru","calls":["#, calls),
    ("docs/events.md", r#"{"domain":"acme.bitrix24.ru","events":{"bind""#, bound),
    ("docs/events.md", r#"{"domain":"acme.bitrix24.ru","events":{"after""#, events_read),
    (RUSSIAN, r#"{"domain":"acme.bitrix24.ru","events":{"bind""#, bound),
    (RUSSIAN, r#"{"domain":"acme.bitrix24.ru","events":{"after""#, events_read),
    (RUSSIAN, "Защита = Новый ЗащищенноеСоединениеOpenSSL(", request_of_1c),
    (RUSSIAN, "GET /cgi-bin/b24proxy/file?", file_fetched),
    (RUSSIAN, r#"{"success":false,"#, unreachable),
    (RUSSIAN, r#"{"domain":"acme.bitrix24.ru","calls":["#, calls),
    ("deploy/1c/README.ru.md", "Функция ПодключениеКБитрикс24() Экспорт", use_of_the_module),
    ("deploy/1c/README.ru.md", "Результат = Битрикс24Прокси.ВызватьМетод(ПодключениеКБитрикс24()", use_of_the_module),
    ("deploy/1c/README.ru.md", "Если ЗначениеЗаполнено(Запись.Идентификатор) Тогда", use_of_the_module),
    ("deploy/1c/README.ru.md", "// Идентификатор сделки для заказа", use_of_the_module),
    ("deploy/1c/README.ru.md", "// Товар - Структура", use_of_the_module),
    ("deploy/1c/README.ru.md", "// Заказы - Массив структур", use_of_the_module),
    ("deploy/1c/README.ru.md", "// Организация - Структура", use_of_the_module),
    ("deploy/1c/README.ru.md", "КлючВыгрузки = Битрикс24Прокси.НовыйКлючИдемпотентности();", use_of_the_module),
    ("deploy/1c/README.ru.md", "Имена = СтрРазделить(", use_of_the_module),
    ("deploy/1c/README.ru.md", "Процедура ОбработатьСобытияБитрикс24()", use_of_the_module),
    (
        "deploy/1c/README.ru.md",
        "Результат = Битрикс24Прокси.ВызватьМетод(Подключение, \"disk.file.get\"",
        use_of_the_module,
    ),
    ("deploy/1c/README.ru.md", "Место = Битрикс24Прокси.ВызватьМетод(", use_of_the_module),
    ("CONTRIBUTING.md", "  main.rs ", rooms),
    ("tests/bench/README.md", "tests/bench/run.sh", shell),
    ("tests/bench/README.md", "tests/bench/run.sh --hold ", shell),
];

/// README.ru.md, and the pages in docs/ru.
const RUSSIAN: &str = "README.ru.md, docs/ru";

pub fn is_russian(document: &str) -> bool {
    document == "README.ru.md" || document.starts_with("docs/ru/")
}

/// The entry of [`BLOCKS`] for a block: where several begin like it, the one that says most. A Russian page may show the
/// block of an English one.
fn entry_of(block: &Block) -> Option<usize> {
    let entry = |of_document: &dyn Fn(&str) -> bool| {
        let fits = |&index: &usize| of_document(BLOCKS[index].0) && block.first_line().starts_with(BLOCKS[index].1);
        (0..BLOCKS.len()).filter(fits).max_by_key(|&index| BLOCKS[index].1.len())
    };
    if !is_russian(&block.document) {
        return entry(&|document| document == block.document);
    }
    entry(&|document| document == RUSSIAN)
        .or_else(|| entry(&|document| document == "README.md" || document.starts_with("docs/")))
}

#[test]
fn every_block_of_the_documents_is_run() {
    let documents = documents();
    let typed = typed_at_an_installation();
    let (mut seen, mut seen_typed) = (vec![None; BLOCKS.len()], vec![false; typed.len()]);
    for block in documents.iter().flat_map(|document| &document.blocks) {
        let is_typed = |at: &usize| {
            let (document, text) = &typed[*at];
            (block.document == *document || is_russian(&block.document)) && *text == block.text.trim_end()
        };
        let is_typed: Vec<usize> = (0..typed.len()).filter(is_typed).collect();
        if !is_typed.is_empty() {
            is_typed.into_iter().for_each(|at| seen_typed[at] |= !is_russian(&block.document));
            continue;
        }
        let Some(index) = entry_of(block) else {
            panic!("{}: this block is not run by any test: {}", block.at(), block.first_line())
        };
        // Two recipes of a document may have the same block.
        let before = seen[index].replace((&block.document, &block.text));
        let Some((document, text)) = before.filter(|(document, _)| **document == block.document) else {
            eprintln!("{} ({})", block.at(), block.language);
            BLOCKS[index].2(block);
            continue;
        };
        assert_eq!(*text, block.text, "{document}: blocks that begin in the same way; say more in BLOCKS");
    }
    for ((document, line, _), seen) in BLOCKS.iter().zip(seen) {
        assert!(seen.is_some(), "{document} has no block that begins with {line:?} any more");
    }
    for ((document, text), seen) in typed.iter().zip(seen_typed) {
        assert!(seen, "tests/install types what {document} does not show: {text}");
    }
}

/// Each recipe of README.md from nothing to `check`, in commands.
#[test]
fn a_recipe_of_the_readme_has_ten_commands_at_most_and_ends_in_a_check() {
    let typed = typed_at_an_installation();
    let mut blocks = typed.iter();
    for (document, section, count) in TYPED.iter().filter(|(document, _, _)| *document == "README.md") {
        let text: Vec<&str> = blocks.by_ref().take(*count).map(|(_, text)| text.as_str()).collect();
        let commands: Vec<&str> = text.iter().flat_map(|text| text.lines()).collect();
        assert!((5..=10).contains(&commands.len()), "{document}, {section}: {commands:#?}");
        assert!(commands.last().is_some_and(|last| last.contains("b24proxy check --url ")), "{section}: {commands:#?}");
        assert!(commands.iter().all(|command| !command.contains("&&")), "{section}: {commands:#?}");
    }
}

/// Documents, their sections and how many blocks of commands are in them: `tests/install` takes these out and runs them in a
/// clean Debian.
const TYPED: &[(&str, &str, usize)] = &[
    ("README.md", "Apache, with the package", 2),
    ("README.md", "nginx, with the package", 3),
    ("README.md", "Apache, with the single file", 2),
    ("README.md", "nginx, with the single file", 3),
    ("docs/fastcgi.md", "Apache, with the package", 1),
    ("docs/fastcgi.md", "nginx, with the package", 1),
    ("docs/fastcgi.md", "Apache, with the single file", 1),
    ("docs/fastcgi.md", "nginx, with the single file", 1),
];

fn typed_at_an_installation() -> Vec<(&'static str, String)> {
    let script = crate::repository().join("tests/install/readme.sh");
    let block = |document: &str, section: &str, number: usize| {
        let mut command = Command::new("sh");
        command.arg(&script).args([document, section, &number.to_string()]);
        let output = command.output().expect("readme.sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    };
    let blocks = |&(document, section, count): &(&'static str, &str, usize)| {
        (1..=count).map(|number| (document, block(document, section, number))).collect::<Vec<_>>()
    };
    TYPED.iter().flat_map(blocks).collect()
}

/// `tests/install` writes the same line into the site's file, and fails where README.md does not have it.
fn included(block: &Block) {
    let script = std::fs::read_to_string(crate::repository().join("tests/install/inside.sh")).expect("the script");
    assert!(script.contains(&format!("grep -q '^ *{}$' README.md", block.text.trim())), "{}", block.at());
}

/// The host in the documents' addresses, and what an administrator writes instead.
const DOCUMENTED: &str = "www.example.com";
const FILLED_IN: &str = "www.acme.test";

/// The configuration with its placeholders filled in.
fn filled_in(block: &Block, proxy: &Proxy) -> String {
    let filled = block
        .text
        .replace("\"local.…\"", &format!("{:?}", proxy.simulator.client_id()))
        .replace(DOCUMENTED, FILLED_IN)
        .replacen("\"…\"", &format!("{:?}", proxy.simulator.client_secret()), 1)
        .replacen("\"…\"", &format!("{TOKEN:?}"), 1);
    assert!(!filled.contains('…'), "{}: a placeholder without a value:\n{filled}", block.at());
    filled
}

/// Loads as it stands, and works once the simulator stands for Bitrix24.
fn configuration(block: &Block) {
    let proxy = Proxy::installed();
    let filled = filled_in(block, &proxy);
    let proxy = proxy.configured(&filled);
    let health = proxy.get("/health").run();
    assert_eq!(health.json()["status"], "ok", "{}: {}", block.at(), health.stderr);

    let section = format!(
        "[bitrix24]\noauth_server = \"{}\"\nca_file = \"ca.pem\"\nconnect_timeout = 3",
        proxy.simulator.oauth_url()
    );
    let portal = proxy.portal().name();
    let proxy = proxy.reconfigured("[bitrix24]", &section).reconfigured("acme.bitrix24.ru", &portal);
    crate::commands::assert_runs(&proxy, &["check"], &block.at());
    assert_eq!(proxy.call("profile", serde_json::json!({})).status, 200, "{}", block.at());
}

const PASSWORD: &str = "Passwort/der@Datenbank?100%";
const ENCODED: &str = "Passwort%2Fder%40Datenbank%3F100%25";

/// What the administrator of a database is told to type, which a page in another language repeats.
fn statements(kind: Kind) -> Block {
    let begins = match kind {
        Kind::Postgres => "CREATE ROLE b24proxy",
        Kind::MySql => "CREATE DATABASE b24proxy",
    };
    let mut blocks = Document::load("docs/databases.md").blocks.into_iter();
    blocks.find(|block| block.text.starts_with(begins)).expect("the statements")
}

/// A server of its own for each kind, by TCP, in which the statements of the documents have been executed: users and databases
/// have the names that stand there.
fn documented_server(kind: Kind) -> &'static Server {
    static SERVERS: [OnceLock<Server>; 2] = [OnceLock::new(), OnceLock::new()];
    SERVERS[kind as usize].get_or_init(|| {
        let server = Server::start_at_port(kind, None);
        let block = statements(kind);
        server.forget_users();
        assert_eq!(block.text.matches("'…'").count(), 1, "{}", block.at());
        // Each alone, as psql sends them.
        for statement in block.text.replace('…', PASSWORD).split_terminator(";\n") {
            server.sql(None, statement);
        }
        server
    })
}

fn made_in_postgres(block: &Block) {
    assert_eq!(block.text, statements(Kind::Postgres).text, "{}", block.at());
    documented_server(Kind::Postgres);
}

fn made_in_mysql(block: &Block) {
    assert_eq!(block.text, statements(Kind::MySql).text, "{}", block.at());
    documented_server(Kind::MySql);
}

/// The section as it stands, but for password and place.
fn section(block: &Block) -> String {
    let kind = if block.text.contains("\"mysql\"") { Kind::MySql } else { Kind::Postgres };
    let port = documented_server(kind).port().expect("it is at a port");
    assert!(block.text.contains(":…@db.lan/"), "{}", block.at());
    block.text.replace('…', ENCODED).replace("db.lan", &format!("127.0.0.1:{port}"))
}

/// Leads to what was moved there.
fn database(block: &Block) {
    let proxy = Proxy::installed().on_files();
    let section = section(block);
    // As it stands it is refused as a sample.
    let files = proxy.config().to_owned();
    let sample = proxy.configured(&format!("{files}\n{}", block.text));
    let refused = sample.get("/health").run();
    assert!(refused.status == 503 && refused.stderr.contains("sample"), "{}: {}", block.at(), refused.stderr);
    let proxy = sample.configured(&files);
    let url = section.split("url  = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("an address");
    let moved = typed_into(&proxy, &["move", "--to", "-"], url, &block.at());
    assert!(!moved.contains(ENCODED) && !moved.contains(PASSWORD), "{}: {moved}", block.at());
    let proxy = proxy.configured(&format!("{files}\n{section}"));
    assert_eq!(proxy.call("profile", serde_json::json!({})).status, 200, "{}", block.at());
    let checked = proxy.sandbox.command_line(&["check"]).output().expect("it starts");
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    for found in ["database", "database rights", "database TLS", "database connections", "database clock"] {
        assert!(checked.contains(&format!("ok    {found}:")), "{}: {found} in {checked}", block.at());
    }
}

/// What is typed into a command.
fn typed_into(proxy: &Proxy, arguments: &[&str], text: &str, at: &str) -> String {
    let mut command = proxy.sandbox.command_line(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(format!("{text}\n").as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{at}: {told}");
    told
}

/// The command as it stands, with an address on its standard input.
fn moved(block: &Block) {
    let proxy = Proxy::installed().on_files();
    let words: Vec<&str> = block.text.split_whitespace().collect();
    let (program, arguments) = words.split_first().expect("a command");
    assert_eq!(*program, "b24proxy", "{}", block.at());
    let database = shared(Kind::Postgres).database();
    typed_into(&proxy, arguments, &database.url(), &block.at());
    assert_eq!(database.sql("SELECT count(pair) FROM b24proxy_portals"), "1", "{}", block.at());
}

/// Sends a request as it stands, but for the token.
fn send(block: &Block, proxy: &Proxy) -> Answer {
    send_with(block, proxy, "")
}

/// And but for the address of a file.
fn send_with(block: &Block, proxy: &Proxy, address: &str) -> Answer {
    let (head, body) = block.text.split_once("\n\n").unwrap_or((block.text.trim_end(), ""));
    let mut lines = head.lines();
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, path, "HTTP/1.1"] = line[..] else { panic!("{}: not a request: {line:?}", block.at()) };
    let path = path.strip_prefix(SCRIPT_NAME).unwrap_or_else(|| panic!("{}: not the program's address", block.at()));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query = query.replace("ADDRESS", address).replace("АДРЕС", address);
    let mut request = proxy.get(path).method(method).query(&query);
    for header in lines {
        let (name, value) = header.split_once(": ").unwrap_or_else(|| panic!("{}: {header}", block.at()));
        request = request.header(name, &value.replace("ВАШ_ТОКЕН", TOKEN).replace("TOKEN", TOKEN));
    }
    // Between parts a line ends as RFC 2046 has it.
    let body = if head.contains("multipart/") { body.replace('\n', "\r\n") } else { body.trim_end().to_owned() };
    request.body(body).run()
}

/// A proxy that may use the disk.
fn with_a_disk() -> Proxy {
    let proxy = documented_proxy();
    proxy.portal().set_scope("crm,catalog,disk");
    proxy
}

/// What a method answers.
fn answered(proxy: &Proxy, method: &str, id: i64) -> Value {
    let answer = proxy.call(method, serde_json::json!({ "id": id }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"]["result"].clone()
}

/// Percent-encoded, as `КодироватьСтроку` does it.
fn encoded(text: &Value) -> String {
    let text = text.as_str().expect("an address");
    serde_urlencoded::to_string([("", text)]).expect("a text").trim_start_matches('=').to_owned()
}

fn file_fetched(block: &Block) {
    let proxy = with_a_disk();
    let bytes = "Договор\n".repeat(100).into_bytes();
    let file = proxy.portal().store_file(File::new("Договор.txt", Content::given(bytes.clone())));
    let address = encoded(&answered(&proxy, "disk.file.get", file)["DOWNLOAD_URL"]);
    let answer = send_with(block, &proxy, &address);
    assert_eq!((answer.status, &answer.body), (200, &bytes), "{}: {}", block.at(), answer.text());
    for header in ["Content-Type", "Content-Length", "Content-Disposition"] {
        assert!(answer.header(header).is_some(), "{}: {header}", block.at());
    }
}

fn file_sent(block: &Block) {
    let proxy = with_a_disk();
    let place = answered(&proxy, "disk.folder.uploadfile", 1);
    assert!(block.text.contains(&format!("name={}; filename=", place["field"])), "{}: {place}", block.at());
    let answer = send_with(block, &proxy, &encoded(&place["uploadUrl"]));
    let content = block.text.split("\n\n").nth(2).and_then(|rest| rest.lines().next()).expect("a part with a line");
    assert_has_arrived(&proxy, &answer, content, &block.at());
}

/// The upload was answered as a call is, and the portal has the file.
#[track_caller]
fn assert_has_arrived(proxy: &Proxy, answer: &Answer, content: &str, at: &str) {
    assert_eq!((answer.status, &answer.json()["success"]), (200, &true.into()), "{at}: {}", answer.text());
    let id = answer.json()["data"]["result"]["ID"].as_str().and_then(|id| id.parse().ok()).expect("the file's ID");
    let mut bytes = Vec::new();
    proxy.portal().file(id).expect("the file").content.reader().read_to_end(&mut bytes).expect("its bytes");
    assert_eq!(String::from_utf8_lossy(&bytes), content, "{at}");
}

fn request(block: &Block) {
    let proxy = documented_proxy();
    let answer = send(block, &proxy);
    assert_eq!((answer.status, &answer.json()["success"]), (200, &true.into()), "{}: {}", block.at(), answer.text());
    let (_, body) = block.text.split_once("\n\n").expect("it was sent");
    let body: Value = serde_json::from_str(body).expect("it was understood");
    let method = body["method"].as_str().expect("it was called");
    assert_eq!(proxy.simulator.ledger().executed(method), 1, "{}", block.at());
}

/// The failure that a block shows, beside the real one: the same keys, and the same values but for the text and the id.
fn assert_same_failure(block: &Block, answer: &Answer) {
    let shown = block.text.replace(DOCUMENTED, FILLED_IN);
    let shown: Value = serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{}: {error}", block.at()));
    let mut real = answer.json();
    failure(answer);
    for changing in ["error", "request_id"] {
        real[changing] = shown[changing].clone();
    }
    assert_eq!(shown, real, "{}", block.at());
}

/// What the documented request is answered with the documented configuration, before the installation.
fn not_installed(block: &Block) {
    let first = |document: &str, language: &str| {
        let mut blocks = Document::load(document).blocks.into_iter();
        blocks.find(|block| block.language == language).expect("a block of this language")
    };
    let proxy = Proxy::not_installed();
    let filled = filled_in(&first("README.md", "toml"), &proxy);
    let proxy = proxy.configured(&filled);
    assert_same_failure(block, &send(&first(&block.document, "http"), &proxy));
}

fn unreachable(block: &Block) {
    let proxy = documented_proxy();
    proxy.simulator.inject(Fault::forever(Target::Connection, Action::CloseBefore));
    assert_same_failure(block, &proxy.call("profile", serde_json::json!({})));
}

/// Every one of the calls is executed, in their order.
fn calls(block: &Block) {
    let proxy = documented_proxy();
    let answer = proxy.request(block.text.trim_end()).run();
    assert_eq!(answer.status, 200, "{}: {}", block.at(), answer.text());
    let sent: Value = serde_json::from_str(&block.text).expect("it was understood");
    let count = sent["calls"].as_array().expect("calls").len();
    let data = &answer.json()["data"];
    assert_eq!(data["results"].as_array().map(Vec::len), Some(count), "{}: {data}", block.at());
    let shown = shown_json(r#"{"results":[{"result":N}],"errors":0}"#).expect("JSON");
    assert_shown(&shown, data, &block.at());
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), count, "{}", block.at());
}

fn bound(block: &Block) {
    let proxy = documented_proxy();
    let answer = proxy.request(block.text.trim_end()).run();
    assert_eq!(answer.status, 200, "{}: {}", block.at(), answer.text());
    let sent: Value = serde_json::from_str(&block.text).expect("it was understood");
    assert_eq!(answer.json()["data"]["bound"], sent["events"]["bind"], "{}", block.at());
}

fn events_read(block: &Block) {
    let answer = reported().request(block.text.trim_end()).run();
    assert_eq!(answer.status, 200, "{}: {}", block.at(), answer.text());
    assert_eq!(answer.json()["data"]["last"], 1, "{}", block.at());
}

/// Code of 1C that sends a request itself: it parses, the platform has what it uses, and its request succeeds.
fn request_of_1c(block: &Block) {
    let module = parsed(block);
    for (name, _) in module.constructed(module.root()) {
        assert!(platform::TYPES.contains(&name), "{}: Новый {name}", block.at());
    }
    let calls = module.calls(module.root());
    for call in calls.iter().filter(|call| !call.receiver.is_empty()) {
        assert!(platform::METHODS.contains(&call.name), "{}: {}", block.at(), call.name);
    }
    let constructed = module.constructed(module.root());
    let (_, address) = constructed.iter().find(|(name, _)| *name == "HTTPЗапрос").expect("a request is made");
    let path = literal(address[0]).strip_prefix(SCRIPT_NAME).expect("the program's address");
    let body = block.text.lines().find_map(|line| line.strip_prefix("Тело = ")).expect("the body is a text");
    // A quote in a text of 1C is written twice.
    let body = literal(body.trim_end_matches(';')).replace("\"\"", "\"");
    let proxy = documented_proxy();
    let mut request = proxy.get(path).method("POST").body(body);
    for call in calls.iter().filter(|call| call.name == "Вставить") {
        request = request.header(literal(call.arguments[0]), &literal(call.arguments[1]).replace("ВАШ_ТОКЕН", TOKEN));
    }
    let answer = request.run();
    assert_eq!((answer.status, &answer.json()["success"]), (200, &true.into()), "{}: {}", block.at(), answer.text());
}

/// Code that uses the module for 1C, which `tests/onec` runs: what it calls is exported and takes so many arguments, and the properties that it
/// reads are ones that the module writes.
fn use_of_the_module(block: &Block) {
    let module = Module::load();
    let example = parsed(block);
    let functions = module.functions();
    let ours: Vec<_> =
        example.calls(example.root()).into_iter().filter(|call| call.receiver == "Битрикс24Прокси").collect();
    assert!(!ours.is_empty(), "{}: nothing of the module is used", block.at());
    assert_eq!(ours.len(), block.text.matches("Битрикс24Прокси.").count(), "{}", block.at());
    for call in ours {
        let function = functions.iter().find(|function| function.exported && function.name == call.name);
        let function = function.unwrap_or_else(|| panic!("{}: the module has no {}", block.at(), call.name));
        let count = call.arguments.len();
        assert!((function.required..=function.parameters).contains(&count), "{}: {}", block.at(), call.name);
    }
    let written: BTreeSet<String> = module.text.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect();
    for read in block.text.split("Результат.").skip(1) {
        for name in read.split(|c: char| !c.is_alphanumeric() && c != '.').next().expect("a name").split('.') {
            assert!(written.contains(name), "{}: the module has no {name}", block.at());
        }
    }
}

fn parsed(block: &Block) -> Module {
    let module = Module::parse(block.text.clone());
    assert_eq!(module.errors(), [0; 0], "{}: lines that do not parse", block.at());
    module
}

/// The picture of `src` shows what is there, and nothing else.
fn rooms(block: &Block) {
    let there = std::fs::read_dir(crate::repository().join("src")).expect("src");
    let there = there.map(|entry| entry.expect("src").file_name().into_string().expect("UTF-8"));
    let there: BTreeSet<String> = there.map(|name| name.trim_end_matches(".rs").to_owned()).collect();
    let words = block.text.lines().flat_map(|line| line.split("   ")).flat_map(str::split_whitespace);
    let drawn = words.filter_map(|word| word.strip_suffix('/').or_else(|| word.strip_suffix(".rs")));
    let drawn: BTreeSet<String> = drawn.filter(|name| !["file", "bulk"].contains(name)).map(str::to_owned).collect();
    assert_eq!(drawn, there);
}
