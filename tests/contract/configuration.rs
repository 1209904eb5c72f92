//! Contract section 1, "Configuration".

use crate::fixture::*;
use crate::logging::{line, lines};
use serde_json::json;
use simulator::{Kind, Options, PortalOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use support::cgi::{Answer, Cgi};
use support::example::{example, filled_in, uncommented};
use support::Sandbox;

/// A configuration that is refused with its own path, so that it shows which file was read.
const REFUSED: &str = "no_such_key = 1\n";

const PROFILE: &str = r#"{"method":"profile"}"#;

/// What the log tells the administrator when the configuration is refused; the caller is told nothing of it.
#[track_caller]
fn refusal_of(answer: &Answer) -> String {
    assert_failure(answer, 500, "configuration_error");
    assert_eq!(
        answer.json()["error"],
        "b24proxy is not configured correctly: the web server's error log says what to change."
    );
    line(answer)["message"].as_str().unwrap().to_owned()
}

/// The same for a configuration made of the standard one.
#[track_caller]
fn refused(from: &str, to: &str) -> String {
    let proxy = Proxy::installed();
    let proxy = if to.contains("[storage]") { proxy.on_files() } else { proxy };
    let proxy = proxy.reconfigured(from, to);
    refusal_of(&proxy.request(PROFILE).run())
}

/// Runs the command that the text proposes after its last ": ", as the administrator would.
fn run_the_proposed_command(sandbox: &Sandbox, message: &str) {
    let (_, command) = message.rsplit_once(": ").unwrap();
    let status = sandbox.command("/bin/sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

#[test]
fn an_administrator_who_installs_meets_a_page_where_the_configuration_is_not_usable() {
    let proxy = Proxy::installed().configured(REFUSED);
    let get = |address: &str| {
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        proxy.get(path).query(query).header("Accept-Language", "ru").run()
    };
    for path in ["/install?portal=acme", "/callback?code=c&state=s", "/?code=c&state=s", "/?portal=acme"] {
        let answer = get(path);
        assert_eq!(answer.status, 500, "{path}");
        assert!(answer.header("Content-Type").unwrap().starts_with("text/html"), "{path}");
        assert!(answer.text().contains("b24proxy настроен неверно"), "{path}: {}", answer.text());
        assert!(!answer.text().contains("no_such_key") && !answer.text().contains("proxy.toml"), "{}", answer.text());
        assert!(line(&answer)["message"].as_str().unwrap().contains("no_such_key"), "{path}");
    }
    for path in ["/", "/status"] {
        assert_failure(&get(path), 500, "configuration_error");
    }
}

#[test]
fn it_is_searched_beside_the_executable_then_in_b24proxy_of_each_folder_above_nearest_first() {
    let sandbox = Sandbox::new();
    for folder in ["site", "site/www", "site/www/cgi-bin", "site/www/b24proxy", "site/b24proxy"] {
        sandbox.make_folder(folder, 0o755);
    }
    let executable = sandbox.path().join("site/www/cgi-bin/proxy.cgi");
    std::fs::hard_link(sandbox.executable(), &executable).unwrap();
    let places =
        ["site/www/cgi-bin", "site/www/b24proxy", "site/b24proxy", "b24proxy"].map(|f| format!("{f}/proxy.toml"));
    for place in &places {
        sandbox.write(place, 0o600, REFUSED.as_bytes());
    }
    for place in &places {
        let output = sandbox
            .command(&executable)
            .envs([("GATEWAY_INTERFACE", "CGI/1.1"), ("REQUEST_METHOD", "GET"), ("PATH_INFO", "/health")])
            .output()
            .unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        let path = sandbox.path().join(place);
        let message = lines(&log)[0]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(&format!("{}: line 1: ", path.display())), "{message}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn b24proxy_config_names_the_file_and_then_no_other_is_looked_at() {
    let proxy = Proxy::installed();
    proxy.sandbox.write("other.toml", 0o600, REFUSED.as_bytes());
    let named = |path: PathBuf| proxy.request(PROFILE).env("B24PROXY_CONFIG", path).as_cgi().run();
    let message = refusal_of(&named(proxy.sandbox.path().join("other.toml")));
    assert!(message.contains("/other.toml: line 1"), "{message}");

    let message = refusal_of(&named(proxy.sandbox.path().join("missing.toml")));
    assert!(message.contains("/missing.toml") && message.contains("B24PROXY_CONFIG"), "{message}");
    assert!(!message.contains("chown"), "nothing to chown: {message}");

    assert_eq!(named(PathBuf::new()).status, 200, "an empty variable names nothing");
    assert_eq!(named(proxy.sandbox.config()).status, 200);
}

#[test]
fn where_there_is_none_one_place_is_recommended_and_the_others_are_named() {
    let sandbox = Sandbox::new();
    let answer = Cgi::new(&sandbox).json("{}").bearer(TOKEN).run();
    let message = refusal_of(&answer);
    let here = sandbox.path().display();
    assert!(message.contains(&format!("copy proxy.toml.example to {here}/b24proxy/proxy.toml and")), "{message}");
    assert!(!message.contains("/cgi-bin/b24proxy/"), "that is the executable: {message}");
    for place in
        [format!("{here}/cgi-bin/proxy.toml"), format!("{here}/b24proxy/proxy.toml"), "/etc/b24proxy/proxy.toml".into()]
    {
        assert!(message.contains(&place), "{place}: {message}");
    }
}

#[test]
fn relative_paths_in_it_are_relative_to_its_own_folder() {
    let proxy = Proxy::not_installed().on_files();
    // ca_file = "ca.pem" is the fixture's own.
    let proxy = proxy.reconfigured("[log]", "[storage]\npath = \"own/pairs\"\n[log]\nfile = \"own.log\"");
    let path = |path: &str| proxy.sandbox.path().join("b24proxy").join(path);
    proxy.sandbox.make_folder("b24proxy/own", 0o700);
    proxy.sandbox.make_folder("b24proxy/own/pairs", 0o700);
    let pair = proxy.portal().issue_pair(1);
    let tokens = token_file(&pair, proxy.simulator.client_id(), unix_now() + 3600);
    let file = format!("b24proxy/own/pairs/{}.json", proxy.stem());
    proxy.sandbox.write(&file, 0o600, tokens.to_string().as_bytes());
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    assert!(path("own.log").exists());
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_known_one_named() {
    for (from, to, wrong, right) in [
        ("client_secret =", "client_sekret =", "client_sekret", "client_secret"),
        ("auth_token =", "authtoken =", "authtoken", "auth_token"),
        ("[log]", "[logg]", "logg", "log"),
        ("max_wait =", "max_wai =", "max_wai", "max_wait"),
        ("aliases =", "alias =", "alias", "aliases"),
        (
            "[limits]",
            "[[security.clients]]\nname = \"x\"\ntoken_sha265 = \"…\"\n[limits]",
            "token_sha265",
            "token_sha256",
        ),
    ] {
        let message = refused(from, to);
        let expected = format!("unknown key \"{wrong}\"; did you mean \"{right}\"?");
        assert!(message.ends_with(&expected), "{message}");
        assert!(message.contains("/b24proxy/proxy.toml: line "), "{message}");
    }
}

#[test]
fn a_file_that_others_can_read_or_write_is_refused_with_the_chmod_that_mends_it() {
    for mode in [0o644, 0o640, 0o604, 0o660, 0o620, 0o602, 0o666] {
        let proxy = Proxy::installed();
        proxy.sandbox.write("b24proxy/proxy.toml", mode, proxy.config().as_bytes());
        let message = refusal_of(&proxy.request(PROFILE).run());
        let command = format!(": chmod 600 {}", proxy.sandbox.config().display());
        assert!(message.ends_with(&command), "{mode:o} {message}");
        run_the_proposed_command(&proxy.sandbox, &message);
        assert_eq!(proxy.request(PROFILE).run().status, 200, "{mode:o}");
    }
    for mode in [0o600, 0o400, 0o700] {
        let proxy = Proxy::installed();
        proxy.sandbox.write("b24proxy/proxy.toml", mode, proxy.config().as_bytes());
        assert_eq!(proxy.request(PROFILE).run().status, 200, "{mode:o}");
    }
}

/// Only root can give files away, so these run where the tests run as root (in the container).
fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

#[test]
fn a_file_of_another_user_is_refused_with_the_chown_that_mends_it() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::installed();
    let config = proxy.sandbox.config();
    std::os::unix::fs::chown(&config, Some(12_345), Some(12_345)).unwrap();
    let expected = |user: &str| format!(": chown {user} {}", config.display());

    // The sandbox's user, nobody, cannot even open it.
    let message = refusal_of(&proxy.request(PROFILE).run());
    assert!(message.ends_with(&expected("nobody")), "{message}");
    assert!(message.contains("your neighbours can read too; ask the host for suexec"), "{message}");

    // Root can open everything, and would obey a stranger's file.
    let as_root = || {
        let variables = [("GATEWAY_INTERFACE", "CGI/1.1"), ("REQUEST_METHOD", "GET"), ("PATH_INFO", "/health")];
        let program = proxy.sandbox.executable();
        let output = std::process::Command::new(program).env_clear().envs(variables).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let message = lines(&as_root())[0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("belongs to 12345") && message.contains(&expected("root")), "{message}");
    for own in [config, proxy.sandbox.tokens(), proxy.sandbox.path().join("b24proxy/ca.pem")] {
        std::os::unix::fs::chown(own, Some(0), Some(0)).unwrap();
    }
    assert_eq!(lines(&as_root())[0]["status"], 200, "root's own");
}

#[test]
fn a_log_file_below_the_document_root_is_refused_whether_it_is_there_yet_or_not() {
    for (file, is_there) in [("../htdocs/b24.log", false), ("../htdocs/b24.log", true), ("link.log", true)] {
        let proxy = Proxy::installed().reconfigured("[log]", &format!("[log]\nfile = \"{file}\""));
        if is_there {
            proxy.sandbox.write("htdocs/b24.log", 0o600, b"");
        }
        if file == "link.log" {
            std::os::unix::fs::symlink("../htdocs/b24.log", proxy.sandbox.path().join("b24proxy/link.log")).unwrap();
        }
        let message = refusal_of(&proxy.request(PROFILE).run());
        assert!(message.contains("the log file") && message.contains("document root"), "{message}");
        let (_, line) = message.split_once(": delete it, and write under [log] ").unwrap();
        let _ = std::fs::remove_file(proxy.sandbox.path().join("b24proxy").join(file));
        let proxy = proxy.reconfigured(&format!("file = \"{file}\""), line);
        assert_eq!(proxy.request(PROFILE).run().status, 200, "{line}");
    }
}

#[test]
fn a_ca_file_that_others_can_write_is_refused_with_the_chmod_that_mends_it() {
    for mode in [0o620, 0o602, 0o666, 0o664] {
        let proxy = Proxy::installed();
        let ca_file = proxy.sandbox.path().join("b24proxy/ca.pem");
        std::fs::set_permissions(&ca_file, PermissionsExt::from_mode(mode)).unwrap();
        let message = refusal_of(&proxy.request(PROFILE).run());
        assert!(message.contains("ca.pem can be written by others"), "{mode:o}: {message}");
        let answer = proxy.get("/health").run();
        assert_eq!((answer.status, &answer.json()["reason"]), (503, &json!("configuration_error")));
        run_the_proposed_command(&proxy.sandbox, &message);
        assert_eq!(proxy.request(PROFILE).run().status, 200, "{mode:o}");
    }
    // Others may read it.
    let proxy = Proxy::installed();
    let ca_file = proxy.sandbox.path().join("b24proxy/ca.pem");
    std::fs::set_permissions(&ca_file, PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(proxy.request(PROFILE).run().status, 200);
    if is_root() {
        std::os::unix::fs::chown(&ca_file, Some(12_345), Some(12_345)).unwrap();
        let message = refusal_of(&proxy.request(PROFILE).run());
        assert!(message.contains("ca.pem belongs to 12345"), "{message}");
    }
}

#[test]
fn what_is_no_file_in_the_place_of_one_is_refused_and_not_waited_for() {
    for (path, name) in [("b24proxy/ca.pem", "ca_file"), ("b24proxy/proxy.toml", "proxy.toml")] {
        let proxy = Proxy::installed();
        let path = proxy.sandbox.path().join(path);
        std::fs::remove_file(&path).unwrap();
        assert!(proxy.sandbox.command("mkfifo").arg(&path).status().unwrap().success());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let answer = proxy.request(PROFILE).timeout(std::time::Duration::from_secs(20)).run();
        assert!(refusal_of(&answer).contains("is not a file"), "{name}");
    }
}

/// The lines of one refusal, each with the words that it must have, in any order.
#[track_caller]
fn assert_all_told(message: &str, expected: &[&str]) {
    for words in expected {
        assert!(message.lines().any(|line| line.contains(words)), "{words}: {message}");
    }
    assert_eq!(message.lines().count(), expected.len(), "{message}");
}

#[test]
fn all_that_is_wrong_is_told_in_one_answer() {
    let chmod = |proxy: &Proxy, path: &str, mode| {
        std::fs::set_permissions(proxy.sandbox.path().join(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    let spoilt = |text: &str| {
        let proxy = Proxy::installed()
            .on_files()
            .reconfigured("[log]", &format!("[log]\nfile = \"../htdocs/b24.log\"\n{text}"));
        chmod(&proxy, "b24proxy/ca.pem", 0o666);
        chmod(&proxy, "b24proxy/tokens", 0o777);
        chmod(&proxy, "b24proxy/proxy.toml", 0o644);
        refusal_of(&proxy.request(PROFILE).run())
    };
    let around = ["chmod 600 ", "chmod go-w ", "the log file", "chmod 700 "];
    assert_all_told(&spoilt(""), &around);
    let keys = "levl = \"info\"\ncolour = 1\n[limits.x]\n";
    let keys = spoilt(keys.trim_end_matches("[limits.x]\n"));
    assert_all_told(&keys, &[around.as_slice(), &["\"levl\"; did you mean", "\"colour\"; the nearest"]].concat());

    let proxy = Proxy::installed().on_files();
    let config = proxy.config().replace(&proxy.simulator.client_secret(), "…").replace(TOKEN, "short");
    let config = config.replace("timeout       = 10", "timeout = 0").replace("max_wait = 5", "max_wait = 0");
    let more =
        "[[security.clients]]\nname = \"a\"\ntoken = \"too-short\"\n[[security.clients]]\nname = \"\"\ntoken = \"…\"\n\
                [portals.\"own.example.org\"]\nclient_id = \"x\"\n[storage]\ntype = \"session\"\n";
    let proxy = proxy.configured(&format!("{config}{more}"));
    let expected = [
        "client_secret is still the sample",
        "[bitrix24] timeout = 0",
        "[limits] max_wait = 0",
        "auth_token is shorter",
        "\"a\" token is shorter",
        "\"\" token is still the sample",
        "needs a name",
        "own.example.org\"] must have both",
        "type = \"session\"",
    ];
    assert_all_told(&refusal_of(&proxy.request(PROFILE).run()), &expected);
    let output = proxy.sandbox.command_line(&["check"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.matches("FAIL  configuration").count(), expected.len(), "{said}");
}

#[test]
fn a_folder_that_cannot_be_entered_is_named_with_the_chmod_that_mends_it() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::chown;
    let proxy = Proxy::installed();
    let folder = proxy.sandbox.path().join("b24proxy");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    chown(&folder, Some(0), Some(0)).unwrap();
    // The file itself is the right user's: to chown it again would change nothing.
    let message = refusal_of(&proxy.request(PROFILE).run());
    let command = format!(": chmod a+x {}", folder.display());
    assert!(message.ends_with(&command), "{message}");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(proxy.request(PROFILE).run().status, 200);

    chown(&folder, Some(65_534), None).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o600)).unwrap();
    let message = refusal_of(&proxy.request(PROFILE).run());
    run_the_proposed_command(&proxy.sandbox, &message);
    assert_eq!(proxy.request(PROFILE).run().status, 200, "{message}");
}

#[test]
fn a_key_whose_sections_header_is_missing_is_said_to_belong_there() {
    let message = refused("[security]", "");
    assert!(message.ends_with("\"auth_token\" belongs under [security]"), "{message}");
}

#[test]
fn a_configuration_below_the_document_root_is_refused_with_the_move_that_mends_it() {
    let proxy = Proxy::installed();
    let inside = proxy.sandbox.path().join("htdocs/proxy.toml");
    proxy.sandbox.write("htdocs/proxy.toml", 0o600, proxy.config().as_bytes());
    std::fs::remove_file(proxy.sandbox.config()).unwrap();
    let message = refusal_of(&proxy.request(PROFILE).env("B24PROXY_CONFIG", &inside).as_cgi().run());
    assert!(message.contains("document root"), "{message}");
    run_the_proposed_command(&proxy.sandbox, &message);
    assert!(!inside.exists());
    assert_eq!(proxy.request(PROFILE).run().status, 200, "it is found where it was moved to");
}

#[test]
fn a_link_does_not_hide_that_a_configuration_lies_below_the_document_root() {
    let proxy = Proxy::installed();
    proxy.sandbox.write("htdocs/proxy.toml", 0o600, proxy.config().as_bytes());
    std::fs::remove_file(proxy.sandbox.config()).unwrap();
    std::os::unix::fs::symlink(proxy.sandbox.path().join("htdocs/proxy.toml"), proxy.sandbox.config()).unwrap();
    assert!(refusal_of(&proxy.request(PROFILE).run()).contains("document root"));
}

#[test]
fn a_token_folder_below_the_document_root_is_refused_whether_it_is_there_yet_or_not() {
    for folder in ["../htdocs", "../htdocs/tokens", "../htdocs/a/b/tokens", "link", "link/tokens"] {
        let proxy =
            Proxy::installed().on_files().reconfigured("[log]", &format!("[storage]\npath = \"{folder}\"\n[log]"));
        let link = proxy.sandbox.path().join("b24proxy/link");
        std::os::unix::fs::symlink(proxy.sandbox.path().join("htdocs"), link).unwrap();
        let message = refusal_of(&proxy.request(PROFILE).run());
        assert!(message.contains("the token folder") && message.contains("document root"), "{folder}: {message}");
        assert!(message.contains("mkdir -p ") && message.contains(" && mv "), "{folder}: {message}");
    }
    // A neighbour whose name only begins the same way.
    let proxy = Proxy::installed().on_files().reconfigured("[log]", "[storage]\npath = \"../htdocs2\"\n[log]");
    assert_failure(&proxy.request(PROFILE).run(), 409, "not_installed");
}

#[test]
fn a_sample_left_in_place_is_refused() {
    for (from, key, sample) in [
        ("client_secret = \"", "[bitrix24] client_secret", "…"),
        ("client_secret = \"", "[bitrix24] client_secret", "the secret that … shows"),
        ("client_id     = \"", "[bitrix24] client_id", "local.xxxxxxxxxxxxxx.xxxxxxxx"),
        ("client_id     = \"", "[bitrix24] client_id", "local.6667fc928a50a9.70414732"),
        ("client_id     = \"", "[bitrix24] client_id", "local.…"),
        ("redirect_uri  = \"", "[bitrix24] redirect_uri", "https://www.example.com/cgi-bin/b24proxy"),
        ("redirect_uri  = \"", "[bitrix24] redirect_uri", "https://example.org:8443/"),
        ("redirect_uri  = \"", "[bitrix24] redirect_uri", "http://a.b.EXAMPLE.net/b24proxy"),
        ("[portals.\"", "[portals.\"….bitrix24.ru\"]", "….bitrix24.ru"),
        ("aliases = [\"", "aliases", "…"),
        ("auth_token = \"", "[security] auth_token", "…"),
    ] {
        let proxy = Proxy::installed();
        let (head, tail) = proxy.config().split_once(from).unwrap();
        let (_, tail) = tail.split_once('"').unwrap();
        let config = format!("{head}{from}{sample}\"{tail}");
        let proxy = proxy.configured(&config);
        let message = refusal_of(&proxy.request(PROFILE).run());
        assert!(message.contains(&format!("{key} is still the sample")), "{message}");
    }
}

#[test]
fn all_samples_and_all_that_is_missing_are_told_in_one_run_of_check() {
    let proxy = Proxy::installed().on_files().configured(&example());
    let lines = |proxy: &Proxy| {
        let output = proxy.sandbox.command_line(&["check", "--json"]).output().unwrap();
        let lines: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let told = lines.as_array().unwrap().iter().filter(|line| line["check"] == "configuration");
        told.map(|line| line["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join("\n")
    };
    let keys = ["client_id", "client_secret", "redirect_uri", "….bitrix24.ru", "auth_token"];
    assert_all_told(&lines(&proxy), &keys.map(|key| key));
    let proxy = proxy.configured("[bitrix24]\nclient_id = \"local.…\"\nclient_secret = \"x\"\n[limits]\nmax_wait = 0");
    let expected = ["client_id is still the sample", "max_wait = 0", "no portal", "no client"];
    assert_all_told(&lines(&proxy), &expected);
}

#[test]
fn addresses_and_names_like_samples_are_none() {
    for (from, to) in [
        ("www.acme.test", "www.example.com.acme.test"),
        ("www.acme.test", "myexample.com"),
        ("[security]", "[portals.\"crm.example.org\"]\n# …\n[security]\ncors_origins = [\"https://shop.example.com\"]"),
    ] {
        let proxy = Proxy::installed().reconfigured(from, to);
        assert_eq!(proxy.get("/health").run().status, 200, "{to}");
    }
}

#[test]
fn a_token_shorter_than_20_characters_is_refused() {
    let message = refused(TOKEN, "nineteen-characters");
    assert!(message.contains("[security] auth_token is shorter than 20 characters"), "{message}");
    let proxy = Proxy::installed().reconfigured(TOKEN, "just-20-characters-x");
    assert_eq!(proxy.bare_request(PROFILE).bearer("just-20-characters-x").run().status, 200);
}

#[test]
fn two_clients_with_one_token_are_refused() {
    let client = |token: &str| format!("[[security.clients]]\nname = \"1c-trade\"\n{token}\n[limits]");
    let message = refused("[limits]", &client(&format!("token = \"{TOKEN}\"")));
    assert!(message.contains("\"1c-trade\"") && message.contains("one token"), "{message}");
    let digest = sha256_hex(TOKEN.as_bytes());
    let message = refused("[limits]", &client(&format!("token_sha256 = \"{digest}\"")));
    assert!(message.contains("one token"), "{message}");
}

#[test]
fn a_token_in_the_place_of_a_name_is_in_no_log() {
    const MISPLACED: &str = "997a094d2b2147be2bd3cd5fb2211c66";
    let client = |more: &str| format!("[[security.clients]]\nname = \"{MISPLACED}\"\n{more}\n[limits]");
    let token = "token = \"another-token-of-a-client\"";
    for clients in [
        client(""),
        client(token) + &client(token).replace("[limits]", ""),
        client(&format!("{token}\nportals = [\"{MISPLACED}\"]")),
    ] {
        let proxy = Proxy::installed().reconfigured("[limits]", &clients.replacen("[limits]\n", "", 0));
        let answer = proxy.request(r#"{"method":"profile"}"#).run();
        assert_failure(&answer, 500, "configuration_error");
        assert!(!answer.stderr.contains(MISPLACED), "{}", answer.stderr);
    }
}

#[test]
fn a_session_is_refused_as_storage_with_the_reason_and_an_unknown_one_with_those_that_there_are() {
    for (kind, why) in [
        ("session", "cannot work: a session belongs to one browser"),
        ("sqlite", "is unknown; write \"file\", \"postgres\" or \"mysql\""),
        ("", "is unknown"),
    ] {
        let message = refused("[log]", &format!("[storage]\ntype = \"{kind}\"\n[log]"));
        assert!(message.contains("[storage] type = ") && message.contains(why), "{kind}: {message}");
    }
    let proxy = Proxy::installed().on_files().reconfigured("[log]", "[storage]\ntype = \"file\"\n[log]");
    assert_eq!(proxy.request(PROFILE).run().status, 200);
}

#[test]
fn with_no_client_configured_every_call_is_refused() {
    let line = format!("auth_token = \"{TOKEN}\"");
    let proxy = Proxy::installed().reconfigured(&line, "");
    assert_failure(&proxy.request(PROFILE).run(), 401, "unauthorized");
    assert_failure(&proxy.bare_request(PROFILE).run(), 401, "unauthorized");
    assert_failure(&proxy.bare_request(PROFILE).bearer("").run(), 401, "unauthorized");
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn a_portal_that_has_no_application_is_refused() {
    let proxy = Proxy::installed();
    let config: String =
        proxy.config().lines().filter(|line| !line.starts_with("client_")).map(|line| format!("{line}\n")).collect();
    let proxy = proxy.configured(&config);
    let message = refusal_of(&proxy.request(PROFILE).run());
    assert!(message.contains("has no application: set client_id and client_secret"), "{message}");
}

#[test]
fn proxy_toml_example_is_refused_as_it_is_and_loads_when_its_samples_are_replaced() {
    let proxy = Proxy::installed();
    let refused = proxy.configured(&example());
    assert!(refusal_of(&refused.request(PROFILE).run()).contains("is still the sample"));
    for text in [example(), uncommented(|_| true)] {
        let loaded = Proxy::not_installed().configured(&filled_in(&text));
        loaded.sandbox.write("b24proxy/my-ca.pem", 0o600, loaded.simulator.ca_pem().as_bytes());
        let answer = loaded.get("/health").run();
        assert_eq!(answer.status, 200, "{}\n{}", answer.stderr, loaded.config());
    }
    // Every sample counts by itself.
    let all = uncommented(|_| true);
    let is_comment = |at: usize| all[..at].rsplit('\n').next().unwrap().contains('#');
    for (at, _) in all.match_indices("\"…\"").filter(|(at, _)| !is_comment(*at)) {
        let one_left = format!("{}{}{}", filled_in(&all[..at]), "\"…\"", filled_in(&all[at + "\"…\"".len()..]));
        let why = refusal_of(&Proxy::not_installed().configured(&one_left).request(PROFILE).run());
        assert!(why.contains("is still the sample"), "{why}");
    }
}

#[test]
fn proxy_toml_example_mentions_every_key() {
    let all = uncommented(|_| true);
    for (section, keys) in [
        (
            "[bitrix24]",
            "client_id client_secret redirect_uri scope oauth_server proxy connect_timeout timeout ca_file allow_http",
        ),
        ("[portals.\"….bitrix24.ru\"]", "client_id client_secret aliases webhook requests_per_second burst"),
        ("[storage]", "type path url"),
        ("[security]", "auth_token allowed_ips trusted_proxies cors_origins"),
        ("[[security.clients]]", "name token portals methods ips"),
        ("[limits]", "max_body max_response max_file max_wait"),
        ("[log]", "file level"),
    ] {
        let (_, text) = all.split_once(&format!("\n{section}\n")).unwrap_or_else(|| panic!("{section}"));
        let text = text.split("\n[").next().unwrap();
        for key in keys.split(' ') {
            let found = text.lines().any(|line| line.split_once('=').is_some_and(|(name, _)| name.trim() == key));
            assert!(found, "{section} {key}");
        }
    }
    assert!(all.contains("token_sha256 = \"…\""));
}

#[test]
fn a_portal_is_contacted_by_http_only_where_allow_http_is_set_and_the_client_endpoint_says_http() {
    let http = || {
        let proxy = Proxy::with(Options { https: false, ..Options::default() });
        proxy.store_pair(&proxy.portal().issue_pair(1));
        proxy
    };
    assert_eq!(http().call("profile", json!({})).status, 200);

    // Not set, but the endpoint says http: nobody is contacted.
    let oauth = "https://oauth.bitrix.info";
    let proxy = http();
    let url = proxy.simulator.oauth_url();
    let proxy = proxy.reconfigured("allow_http    = true", "allow_http    = false").reconfigured(&url, oauth);
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 500, "storage_error");
    assert!(answer.stderr.contains("allow_http = true"), "{}", answer.stderr);
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);

    // Set, but the endpoint says https: it is https that the portal gets.
    let proxy = Proxy::installed().reconfigured("allow_http    = false", "allow_http    = true");
    assert!(proxy.stored()["client_endpoint"].as_str().unwrap().starts_with("https://"));
    assert_eq!(proxy.call("profile", json!({})).status, 200);
}

#[test]
fn an_oauth_server_by_http_and_a_webhook_by_http_need_allow_http() {
    let proxy = Proxy::with(Options { https: false, ..Options::default() });
    let webhook = format!("aliases = [\"acme\"]\nwebhook = \"{}\"", proxy.portal().webhook_url());
    let oauth = proxy.simulator.oauth_url();
    let closed = proxy.reconfigured("allow_http    = true", "allow_http    = false");
    let message = refusal_of(&closed.request(PROFILE).run());
    assert!(message.contains("oauth_server is plain http") && message.contains("allow_http = true"), "{message}");
    let closed =
        closed.reconfigured(&oauth, "https://oauth.bitrix.info").reconfigured("aliases = [\"acme\"]", &webhook);
    let message = refusal_of(&closed.request(PROFILE).run());
    assert!(message.contains("webhook is plain http") && message.contains("allow_http = true"), "{message}");
    let open = closed.reconfigured("allow_http    = false", "allow_http    = true");
    assert_eq!(open.request(PROFILE).run().status, 200);
}

#[test]
fn ca_file_is_trusted_beside_the_built_in_roots_for_portals_and_an_own_oauth_server() {
    let proxy = Proxy::installed();
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);

    let proxy = Proxy::installed().reconfigured("ca_file       = \"ca.pem\"", "");
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 502, "bitrix24_unreachable");
    assert_eq!(answer.json()["executed"], "no");
    assert!(answer.json()["error"].as_str().unwrap().contains("ca_file"), "{}", answer.text());
    assert_eq!(proxy.simulator.ledger().entries.len(), 0);
}

#[test]
fn a_ca_file_that_cannot_be_used_is_a_configuration_error_that_health_shows_too() {
    for bytes in [&b""[..], b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let proxy = Proxy::installed();
        proxy.sandbox.write("b24proxy/ca.pem", 0o600, bytes);
        let message = refusal_of(&proxy.request(PROFILE).run());
        assert!(message.contains("b24proxy/ca.pem"), "{message}");
        let health = proxy.get("/health").run();
        assert_eq!((health.status, health.json()["reason"].as_str()), (503, Some("configuration_error")));
    }
}

#[test]
fn a_portals_own_key_pair_is_used_for_it_and_the_shared_one_for_others() {
    let proxy = Proxy::installed();
    let other = proxy.simulator.add_portal(PortalOptions { own_key_pair: true, ..PortalOptions::default() });
    let keys = other.key_pair();
    let config = format!(
        "{}\n[portals.\"{}\"]\nclient_id = \"{}\"\nclient_secret = \"{}\"\n",
        proxy.config(),
        other.name(),
        keys.client_id,
        keys.client_secret
    );
    let proxy = proxy.configured(&config);
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    let pair = other.issue_pair(1);
    let file = format!("{}.json", other.name().replace(':', "_"));
    proxy.sandbox.write_token_file(&file, &token_file(&pair, &keys.client_id, unix_now() - 10).to_string());
    for name in [proxy.portal().name(), other.name()] {
        let answer = proxy.request(json!({"domain": name, "method": "profile"}).to_string()).run();
        assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    }
    let ledger = proxy.simulator.ledger();
    let used: Vec<String> = ledger
        .entries
        .iter()
        .filter_map(|entry| match &entry.kind {
            Kind::Token { client_id, .. } => Some(client_id.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(used, [proxy.simulator.client_id(), keys.client_id]);
}

#[test]
fn half_a_key_pair_is_refused() {
    let message = refused("aliases = [\"acme\"]", "client_id = \"local.1\"");
    assert!(message.contains("both client_id and client_secret"), "{message}");
}

#[test]
fn a_portal_with_a_webhook_is_called_by_it_without_tokens_and_without_auth() {
    let proxy = Proxy::not_installed();
    let webhook = proxy.portal().webhook_url();
    let proxy = proxy.reconfigured("aliases =", &format!("webhook = \"{webhook}\"\naliases ="));
    let answer = proxy.request(r#"{"domain":"acme","method":"sim.echo","params":{"a": 1.50}}"#).run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_eq!(answer.json()["data"]["result"], json!({"a": 1.5}));
    let ledger = proxy.simulator.ledger();
    let call = ledger.last_call().unwrap();
    assert_eq!(format!("{}{}", proxy.portal().url(), call.path), format!("{webhook}sim.echo"));
    assert_eq!(String::from_utf8_lossy(&call.body), r#"{"a": 1.50}"#);
    assert_eq!(ledger.connections("oauth"), 0);

    proxy.portal().seed("tasks.task", 1);
    let answer = proxy.request(r#"{"method":"tasks.task.get","version":3,"params":{"id":1}}"#).run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    let ledger = proxy.simulator.ledger();
    let call = ledger.last_call().unwrap();
    let expected = format!("{}tasks.task.get", proxy.portal().webhook3_url());
    assert_eq!(format!("{}{}", proxy.portal().url(), call.path), expected);
    assert_eq!(String::from_utf8_lossy(&call.body), r#"{"id":1}"#);
    assert!(!proxy.sandbox.tokens().join(format!("{}.json", proxy.stem())).exists());
}

#[test]
fn a_webhook_of_another_portal_is_refused_and_not_shown() {
    let message = refused("aliases =", "webhook = \"https://evil.example/rest/1/abcdef123/\"\naliases =");
    assert!(message.contains("another portal"), "{message}");
    assert!(!message.contains("abcdef123"), "{message}");
}

#[test]
fn a_refusal_shows_none_of_the_files_secrets() {
    for (from, to) in [
        ("client_secret = \"", "client_secret = [\""),
        ("client_secret = \"", "client_secret = \"\"\""),
        ("auth_token = \"", "auth_token = 5 \""),
        ("auth_token = \"", "allowed_ips = \""),
        ("auth_token = \"", "cors_origins = \""),
        ("auth_token = \"", "auth_token = "),
        ("auth_token = \"", "cors_origins = [\"https://acme.bitrix24.ru/rest/1/"),
        ("auth_token = \"", "[portals.\"https://acme.bitrix24.ru/rest/1/a-client-token-for-tests/\"]\n#"),
    ] {
        let proxy = Proxy::installed().reconfigured(from, to);
        let answer = proxy.request(PROFILE).run();
        refusal_of(&answer);
        for secret in [TOKEN.to_owned(), proxy.simulator.client_secret()] {
            assert!(!answer.stderr.contains(&secret), "{to}: {}", answer.stderr);
        }
    }
}

#[test]
fn the_token_folder_is_created_for_its_owner_only() {
    let proxy = Proxy::not_installed().on_files().reconfigured("[log]", "[storage]\npath = \"new/tokens\"\n[log]");
    assert_eq!(proxy.get("/health").run().status, 200);
    let folder = proxy.sandbox.path().join("b24proxy/new/tokens");
    assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
}
