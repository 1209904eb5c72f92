//! Existing webhook clients, as their users run them: installed from PyPI and npm in pinned versions, unmodified, over
//! https through a real web server with the rules that `deploy/` ships. What the portal got is read from the simulator.

#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;

use fixture::{Proxy, TOKEN};
use serde_json::{json, Value};
use simulator::{Action, Fault, Target};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use support::webserver::{Certificate, Kind, Setup, WebServer};

/// A client and the web server that it is tried with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    /// `fast-bitrix24` for Python, through nginx.
    FastBitrix24,
    /// `@bitrix24/b24jssdk` for Node.js, through Apache.
    B24JsSdk,
}

use Client::{B24JsSdk, FastBitrix24};

/// The portal, the program, the web server.
struct Place {
    proxy: Proxy,
    server: WebServer,
    client: Client,
}

impl Place {
    fn new(client: Client) -> Place {
        Place::with(client, Proxy::installed())
    }

    fn with(client: Client, proxy: Proxy) -> Place {
        let kind = match client {
            FastBitrix24 => Kind::Nginx,
            B24JsSdk => Kind::ApacheCgid,
        };
        let (certificate, key) = proxy.simulator.certificate_pem();
        let setup = Setup { https: Some(Certificate { certificate, key }), root: true, ..Setup::default() };
        let server = WebServer::start_with(&proxy.sandbox, kind, &setup);
        Place { proxy, server, client }
    }

    /// What the script prints for this scenario.
    fn run(&self, scenario: &str) -> Value {
        self.run_with(TOKEN, scenario)
    }

    fn run_with(&self, token: &str, scenario: &str) -> Value {
        self.run_at(&self.server.https_url(&format!("/rest/1/{token}/")), scenario, &[])
    }

    /// `address`: the webhook's; `more`: variables of the environment.
    fn run_at(&self, address: &str, scenario: &str, more: &[(&str, String)]) -> Value {
        let ca = self.proxy.sandbox.path().join("ca.pem");
        fs::write(&ca, self.proxy.simulator.ca_pem()).expect("the sandbox can be written");
        let mut command = match self.client {
            FastBitrix24 => {
                let mut command = Command::new(python().join("bin/python"));
                command.arg(source("fast_bitrix24_client.py")).env("SSL_CERT_FILE", &ca);
                command
            }
            B24JsSdk => {
                let mut command = Command::new("node");
                command.arg(node().join("b24jssdk_client.mjs")).env("NODE_EXTRA_CA_CERTS", &ca);
                command
            }
        };
        let output = command
            .arg(scenario)
            .env("WEBHOOK", address)
            .envs(more.iter().map(|(name, value)| (name, value)))
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started ({error}): see tests/packages.sh"));
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{:?} {scenario}: {}\n{out}\n{err}", self.client, output.status);
        let last = out.trim().lines().last().unwrap_or("");
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{scenario} printed {out} ({error})\n{err}"))
    }

    fn executed(&self, method: &str) -> usize {
        self.proxy.simulator.ledger().executed(method)
    }

    fn calls(&self, method: &str) -> usize {
        self.proxy.simulator.ledger().calls(method)
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Python with the pinned packages.
fn python() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        installed("python", &["requirements.txt"], |folder| {
            run("python3", "python3-venv", |python| python.args(["-m", "venv"]).arg(folder));
            let pip = folder.join("bin/pip").display().to_string();
            run(&pip, "python3-venv", |pip| pip.args(["install", "--quiet", "-r"]).arg(source("requirements.txt")));
        })
    })
}

const NODE: [&str; 3] = ["package.json", "package-lock.json", "b24jssdk_client.mjs"];

/// A folder with the script, and the pinned packages beside it in `node_modules`, where its import finds them.
fn node() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        installed("node", &NODE, |folder| {
            run("node", "nodejs", |node| node.arg("--version"));
            fs::create_dir_all(folder).expect("the target folder can be written");
            for name in NODE {
                fs::copy(source(name), folder.join(name)).expect("the target folder can be written");
            }
            run("npm", "npm", |npm| {
                npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder)
            });
        })
    })
}

/// The folder of that name in cargo's target folder, made anew where its sources are others.
fn installed(name: &str, sources: &[&str], install: impl FnOnce(&Path)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(name);
    let wanted: String = sources.iter().map(|name| fs::read_to_string(source(name)).expect("a source")).collect();
    let mark = folder.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|there| there == wanted) {
        return folder;
    }
    let _ = fs::remove_dir_all(&folder);
    install(&folder);
    fs::write(mark, wanted).expect("the target folder can be written");
    folder
}

fn run(program: &str, package: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = Command::new(program);
    let output = arguments(command.stdin(Stdio::null())).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{program} cannot be started ({error}): install the Debian package {package} (tests/packages.sh)")
    });
    assert!(
        output.status.success(),
        "{program} failed (Debian package {package}, tests/packages.sh; and the package registry must be reachable):\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

fn both(test: impl Fn(Place)) {
    for client in [FastBitrix24, B24JsSdk] {
        test(Place::new(client));
    }
}

#[test]
fn single_calls_keep_cyrillic_numbers_and_null() {
    both(|place| {
        let printed = place.run("single");
        let got = if place.client == FastBitrix24 { &printed["got"]["order0000000000"] } else { &printed["got"] };
        assert_eq!(got["TITLE"], "Стол «Дуб» №1 & Co", "{printed}");
        let echo = if place.client == FastBitrix24 { &printed["null"]["result"] } else { &printed["null"] };
        assert!(echo.as_object().is_some_and(|echo| echo.get("a") == Some(&Value::Null)), "{printed}");
        assert_eq!((&echo["b"], &echo["d"]), (&json!([1, {"c": "й"}]), &json!(true)), "{printed}");
        match place.client {
            FastBitrix24 => {
                assert_eq!(printed["profile"]["result"]["ID"], "1");
                assert_eq!(
                    printed["text_of_null"]["order0000000000"]["a"], "None",
                    "the client's own doing: {printed}"
                );
            }
            B24JsSdk => assert_eq!(printed["time"], "number"),
        }
        assert_eq!(place.executed("crm.deal.add"), 1);
        // Nothing of the address reached the portal.
        assert!(!place.proxy.simulator.ledger().portals_saw(TOKEN));
    });
}

#[test]
fn lists_of_more_than_fifty_are_complete() {
    both(|place| {
        place.proxy.portal().seed("crm.deal", 170);
        let printed = place.run("lists");
        let all: Vec<u32> = (1..=170).collect();
        assert_eq!(printed["ids"], json!(all), "{printed}");
        match place.client {
            FastBitrix24 => assert_eq!(printed["title"], "Запись"),
            B24JsSdk => assert_eq!(printed["pages"], json!([50, 50, 50, 20]), "next is passed on"),
        }
    });
}

#[test]
fn batches_of_more_than_fifty_commands_run_whole_and_once() {
    both(|place| {
        let printed = place.run("batches");
        assert_eq!(printed["added"], 120, "{printed}");
        assert_eq!(place.executed("crm.deal.add"), 120);
        let ledger = place.proxy.simulator.ledger();
        let sizes: Vec<usize> = ledger.all_calls().map(|call| call.commands.len()).filter(|n| *n > 2).collect();
        match place.client {
            FastBitrix24 => {
                assert_eq!(printed["titles"].as_array().unwrap().len(), 120);
                assert_eq!(printed["named"]["d"]["TITLE"].as_str().map(|title| &title[..12]), Some("Сделка"));
                assert_eq!(sizes.iter().sum::<usize>(), 240, "adding and reading: {sizes:?}");
            }
            B24JsSdk => {
                assert_eq!((&printed["profile"], &printed["deal"]), (&json!("1"), &json!("Сделка 6")), "{printed}");
                assert_eq!(printed["unknown"], json!(["Method not found!"]), "{printed}");
                assert_eq!(sizes, [50, 50, 20]);
            }
        }
    });
}

#[test]
fn rest_3_works_with_its_batch_as_list_and_map() {
    let place = Place::new(B24JsSdk);
    let printed = place.run("rest3");
    assert_eq!((&printed["title"], &printed["named"]), (&json!("Задача"), &json!("Задача")), "{printed}");
    assert!(printed["missing"]["soft"].is_array(), "{printed}");
    assert!(printed["unknown"]["soft"].is_array(), "{printed}");
    assert_eq!(place.executed("tasks.task.add"), 1);
    assert!(place.proxy.simulator.ledger().all_calls().all(|call| call.version == 3));
}

#[test]
fn an_unknown_method_ends_the_call_at_once() {
    both(|place| {
        let printed = place.run("unknown_method");
        assert_eq!(printed["status"], 404, "{printed}");
        if place.client == B24JsSdk {
            assert_eq!(printed["code"], "ERROR_METHOD_NOT_FOUND");
        }
        assert_eq!(place.calls("no.such.method"), 1, "not repeated");
    });
}

#[test]
fn a_wrong_token_ends_the_call_at_once() {
    both(|place| {
        let printed = place.run_with("wrongtokenwrongtokenwrong", "wrong_token");
        assert_eq!(printed["status"], 401, "{printed}");
        if place.client == B24JsSdk {
            assert_eq!(printed["code"], "NO_AUTH_FOUND");
        }
        assert_eq!(place.proxy.simulator.ledger().all_calls().count(), 0);
    });
}

#[test]
fn a_portal_without_an_installation_ends_the_call_at_once() {
    for client in [FastBitrix24, B24JsSdk] {
        let place = Place::with(client, Proxy::not_installed());
        let printed = place.run("add_once");
        assert_eq!(printed["status"], 403, "{printed}");
        if client == B24JsSdk {
            assert_eq!(printed["code"], "NOT_INSTALLED");
        }
    }
}

#[test]
fn an_add_call_whose_answer_is_lost_is_executed_exactly_once() {
    for fault in [
        Action::CloseAfter,
        Action::CloseMidAnswer,
        Action::ExecuteThenStatus { status: 502, content_type: "text/html".into(), body: "<html>502</html>".into() },
    ] {
        both(|place| {
            // Every answer would be lost, so that each repetition would show.
            place.proxy.simulator.inject(Fault::forever(Target::Method("crm.deal.add".into()), fault.clone()));
            let printed = place.run("add_once");
            assert_eq!(printed["status"], 409, "{:?} {fault:?}: {printed}", place.client);
            if place.client == B24JsSdk {
                assert_eq!(printed["code"], "OUTCOME_UNKNOWN");
            }
            assert_eq!((place.calls("crm.deal.add"), place.executed("crm.deal.add")), (1, 1), "{fault:?}");
        });
    }
}

#[test]
fn an_add_call_that_was_not_executed_is_repeated_by_the_client_and_executed_once() {
    both(|place| {
        place.proxy.store_expired_pair(&place.proxy.portal().issue_pair(1));
        place.proxy.simulator.inject(Fault::once(Target::Token, Action::Html500));
        // The failure of a refresh is shared for ten seconds, which is longer than b24jssdk goes on trying.
        let printed = place.run("add_once");
        match place.client {
            FastBitrix24 => assert!(printed["result"]["result"].is_number(), "{printed}"),
            B24JsSdk if printed["status"] == 503 => {
                std::thread::sleep(Duration::from_secs(10));
                let printed = place.run("add_once");
                assert!(printed["result"].is_number(), "{printed}");
            }
            B24JsSdk => assert!(printed["result"].is_number(), "{printed}"),
        }
        assert_eq!(place.executed("crm.deal.add"), 1);
    });
}

#[test]
fn the_rate_limit_slows_clients_down_and_loses_no_call() {
    both(|place| {
        place.proxy.portal().set_bucket(2.0, 3.0);
        let printed = place.run("ten_calls");
        assert_eq!(printed, json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
        assert_eq!(place.executed("sim.echo"), 10);
    });
}

#[test]
fn the_access_token_expiring_on_the_way_is_not_noticed() {
    both(|place| {
        place.proxy.portal().expire_access_tokens();
        let printed = place.run("ten_calls");
        assert_eq!(printed, json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let ledger = place.proxy.simulator.ledger();
        assert_eq!((ledger.refreshes(), ledger.executed("sim.echo")), (1, 10));
    });
}

#[test]
fn fast_bitrix24_on_the_same_portal_reads_no_family_faster_than_all() {
    const ROWS: u32 = 30_000;
    let products = json!({"filter": {"iblockId": 24}, "select": ["id", "iblockId"]});
    for (kind, method, params) in [
        ("crm.deal", "crm.deal.list", json!({"select": ["ID", "TITLE"]})),
        ("catalog.product", "catalog.product.list", products),
        ("sale.order", "sale.order.list", json!({"select": ["id"]})),
        ("tasks.task", "tasks.task.list", json!({"select": ["ID"]})),
        ("user", "user.get", json!({})),
    ] {
        let place = Place::with(FastBitrix24, Proxy::installed().reconfigured("timeout       = 10", "timeout = 55"));
        let portal = place.proxy.portal();
        portal.set_bucket(2.0, 50.0);
        portal.seed(kind, ROWS);
        let more = [("METHOD", method.to_owned()), ("PARAMS", params.to_string())];
        let theirs = place.run_at(&portal.webhook_url(), "whole_list", &more);
        assert_eq!(theirs["rows"], ROWS, "{method}");
        portal.set_bucket(2.0, 50.0);
        let started = Instant::now();
        let body = json!({"method": method, "params": params, "all": true}).to_string();
        let answer = place.server.request("POST", "/cgi-bin/b24proxy").bearer(TOKEN).json(body).send();
        let ours = started.elapsed().as_secs_f64();
        let data = &answer.json()["data"];
        assert_eq!((data["result"].as_array().map(Vec::len), &data["complete"]), (Some(ROWS as usize), &json!(true)));
        println!("{method}: fast-bitrix24 {} s, all {ours:.1} s", theirs["seconds"]);
        // A debug build on a busy machine; a page too many each time would take minutes.
        assert!(ours <= theirs["seconds"].as_f64().expect("seconds") + 1.0, "{method}");
    }
}
