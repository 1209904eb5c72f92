//! The executable that is handed out: built as its recipe says, it runs on every x86-64 Linux with glibc 2.17 or newer.

mod checklist;
mod package;

use std::path::{Path, PathBuf};
use std::process::Command;
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

fn built(folder: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder").to_owned();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    output(
        Command::new("sh")
            .arg(repository().join("deploy/release/build.sh"))
            .arg(&out)
            .env("CARGO_TARGET_DIR", target.join("handed-out"))
            .env_remove("RUSTFLAGS"),
    );
    out
}

/// `GLIBC_2.17` as (2, 17).
fn version(symbol: &str) -> Option<(u32, u32)> {
    let mut numbers = symbol.strip_prefix("GLIBC_")?.split('.').map(|n| n.parse().unwrap_or(0));
    Some((numbers.next()?, numbers.next()?))
}

#[test]
fn it_needs_no_newer_glibc_than_2_17_carries_its_sum_and_no_path_of_the_machine_and_runs() {
    let out = built("dist");
    let executable = out.join("b24proxy");

    let symbols = output(Command::new("objdump").arg("-T").arg(&executable));
    let versions: Vec<(u32, u32)> =
        symbols.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).filter_map(version).collect();
    let highest = versions.iter().max().expect("it is linked with glibc");
    assert!(*highest <= (2, 17), "it needs glibc {highest:?}");

    output(Command::new("sha256sum").args(["--check", "--strict", "b24proxy.sha256"]).current_dir(&out));

    let bytes = std::fs::read(&executable).unwrap();
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    for path in [repository().to_str().unwrap(), &format!("{home}/.cargo")] {
        assert!(!bytes.windows(path.len()).any(|window| window == path.as_bytes()), "{path} is in it");
    }

    let sandbox = Sandbox::with_executable(&executable);
    sandbox.write_config("[security]\nauth_token = \"a-token-for-the-release\"\n");
    let answer = Cgi::new(&sandbox).path("/health").run();
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"status":"ok"}"#), "{}", answer.stderr);
}
