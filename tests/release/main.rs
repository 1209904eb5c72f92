//! What is handed out, built as its recipe says: executables that run on every Linux, packages, and how they are released.

mod checklist;
#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;
mod package;

use fixture::Proxy;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use support::cgi::Cgi;
use support::Sandbox;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

const SIZE: u64 = 7 << 20;

/// What `deploy/release/build.sh` makes.
fn dist() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (target, out) = (temporary.parent().expect("the target folder"), temporary.join("dist"));
        let mut build = Command::new("sh");
        build.arg(repository().join("deploy/release/build.sh")).arg(&out);
        output(build.env("CARGO_TARGET_DIR", target).env_remove("RUSTFLAGS"));
        out
    })
}

/// The executables, and the word by which `readelf` knows their processor.
fn executables() -> [(PathBuf, &'static str); 2] {
    [("b24proxy", "X86-64"), ("b24proxy-aarch64", "AArch64")].map(|(name, machine)| (dist().join(name), machine))
}

#[test]
fn both_executables_need_no_library_and_no_loader_and_are_smaller_than_7_mib() {
    for (executable, machine) in executables() {
        let read = output(Command::new("readelf").args(["-hlW"]).arg(&executable));
        assert!(read.contains(machine), "{read}");
        assert!(!read.contains("INTERP") && !read.contains("DYNAMIC"), "it is not static: {read}");
        let size = std::fs::metadata(&executable).unwrap().len();
        assert!(size < SIZE, "{}: {size} bytes", executable.display());
    }
}

#[test]
fn every_file_has_its_sum_beside_it_and_no_path_of_the_machine_in_it() {
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    let version = env!("CARGO_PKG_VERSION");
    let packages = ["amd64", "arm64"].map(|architecture| format!("b24proxy_{version}_{architecture}.deb"));
    for name in ["b24proxy", "b24proxy-aarch64"].into_iter().chain(packages.iter().map(String::as_str)) {
        let sum = format!("{name}.sha256");
        output(Command::new("sha256sum").args(["--check", "--strict", &sum]).current_dir(dist()));
        let bytes = std::fs::read(dist().join(name)).unwrap();
        for path in [repository().to_str().unwrap(), &format!("{home}/.cargo"), &format!("{home}/.rustup")] {
            assert!(!bytes.windows(path.len()).any(|window| window == path.as_bytes()), "{path} is in {name}");
        }
    }
    for name in [format!("b24proxy_{version}.cdx.json"), format!("b24proxy_{version}.licences.txt")] {
        let text = std::fs::read_to_string(dist().join(&name)).unwrap();
        assert!(text.contains("musl"), "{name}");
    }
}

#[test]
fn it_runs_where_there_is_nothing_beside_it() {
    let sandbox = Sandbox::with_executable(&dist().join("b24proxy"));
    sandbox.write_config("[security]\nauth_token = \"a-token-for-the-release\"\n");
    let mut command = if rustix::process::geteuid().is_root() {
        let mut chroot = Command::new("chroot");
        chroot.arg("--userspec=65534:65534");
        chroot
    } else {
        let mut unshare = Command::new("unshare");
        unshare.args(["-r", "chroot"]);
        unshare
    };
    command.env_clear().env("PATH", support::PATH);
    command.args([sandbox.path(), Path::new("/cgi-bin/b24proxy")]);
    let variables = [("GATEWAY_INTERFACE", "CGI/1.1"), ("REQUEST_METHOD", "GET"), ("PATH_INFO", "/health")];
    let said = output(command.envs(variables).stdin(Stdio::null()));
    assert!(said.starts_with("Status: 200") && said.ends_with(r#"{"status":"ok"}"#), "{said}");
}

/// A proxy whose executable is the one for ARM, on a processor that is made of software.
fn on_arm() -> Proxy {
    let proxy = Proxy::installed();
    let executable = proxy.sandbox.executable();
    std::fs::remove_file(&executable).unwrap();
    output(Command::new("install").args(["-m", "755"]).args([dist().join("b24proxy-aarch64"), executable]));
    proxy.run_behind("exec qemu-aarch64 {}");
    proxy
}

#[test]
fn the_executable_for_arm_serves_calls_lists_keys_and_commands() {
    let proxy = on_arm();
    let told = output(proxy.sandbox.command_line(&["version"]).stdin(Stdio::null()));
    assert!(told.contains(env!("CARGO_PKG_VERSION")), "{told}");
    let answer = Cgi::new(&proxy.sandbox).path("/health").as_cgi().run();
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"status":"ok"}"#), "{}", answer.stderr);

    let portal = proxy.portal().name();
    let one = json!({"domain": portal, "method": "crm.deal.add", "params": {"fields": {"TITLE": "Стол"}}}).to_string();
    let keyed = || proxy.request(one.clone()).header("Idempotency-Key", "one").as_cgi().run();
    let first = keyed();
    assert_eq!((first.status, &first.json()["success"]), (200, &json!(true)), "{} {}", first.text(), first.stderr);
    let again = keyed();
    assert_eq!((again.status, again.header("Idempotent-Replayed")), (200, Some("true")), "{}", again.text());
    assert_eq!(first.json()["data"], again.json()["data"]);
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 1);

    let many = json!({"domain": portal, "calls": vec![json!({"method": "profile"}); 60]}).to_string();
    let answer = proxy.request(many).as_cgi().run();
    assert_eq!(answer.json()["data"]["results"].as_array().map(Vec::len), Some(60), "{}", answer.text());
    let check = proxy.sandbox.command_line(&["check"]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(text.contains("from here: answers as Bitrix24"), "{text}");
}
