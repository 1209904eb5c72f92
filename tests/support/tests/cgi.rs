//! A script in place of `b24proxy`, run as a CGI process.

use std::panic;
use std::time::Duration;

use support::cgi::Cgi;
use support::{eventually, Sandbox};

const MIRROR: &str = r#"#!/bin/sh
printf 'Status: 222 Mirror\r\nContent-Type: text/x-mirror\r\n\r\n'
env
for argument in "$@"; do echo "argument=$argument"; done
echo "from the program" >&2
printf 'body='
cat
"#;

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn a_request_is_its_variables_and_its_body_and_nothing_else() {
    let sandbox = Sandbox::with_script(MIRROR);
    let answer = Cgi::new(&sandbox)
        .method("POST")
        .path("/a ü")
        .query("x=1")
        .bearer("secret")
        .header("Content-Type", "a/b")
        .env("B24PROXY_CONFIG", "/nowhere")
        .without("HTTPS")
        .body("hello")
        .run();
    assert_eq!(answer.status, 222);
    assert_eq!(answer.header("content-type"), Some("text/x-mirror"));
    assert!(answer.exit.success());
    assert_eq!(answer.stderr, "from the program\n");
    let text = answer.text();
    let mut found = lines(&text);
    found.retain(|line| !line.starts_with("PWD=") && !line.starts_with('_'));
    found.sort_unstable();
    let program = format!("SCRIPT_FILENAME={}", sandbox.executable().display());
    let root = format!("DOCUMENT_ROOT={}/htdocs", sandbox.path().display());
    let mut expected = vec![
        "B24PROXY_CONFIG=/nowhere",
        "CONTENT_LENGTH=5",
        "CONTENT_TYPE=a/b",
        &root,
        "GATEWAY_INTERFACE=CGI/1.1",
        "HTTP_AUTHORIZATION=Bearer secret",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PATH_INFO=/a ü",
        "QUERY_STRING=x=1",
        "REMOTE_ADDR=127.0.0.1",
        "REQUEST_METHOD=POST",
        "REQUEST_URI=/cgi-bin/b24proxy/a%20%C3%BC?x=1",
        &program,
        "SCRIPT_NAME=/cgi-bin/b24proxy",
        "SERVER_NAME=www.acme.test",
        "SERVER_PORT=443",
        "SERVER_PROTOCOL=HTTP/1.1",
        "SERVER_SOFTWARE=support",
        "body=hello",
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_body_can_come_without_a_length_or_with_a_wrong_one() {
    let sandbox = Sandbox::with_script(MIRROR);
    let post = || Cgi::new(&sandbox).method("POST").body("hello");
    let text = post().content_length(None).run().text();
    assert!(!text.contains("CONTENT_LENGTH") && text.contains("body=hello"));
    let text = post().content_length(Some(7)).run().text();
    assert!(lines(&text).contains(&"CONTENT_LENGTH=7"));
}

#[test]
fn everything_belongs_to_the_user_as_whom_it_runs() {
    let script = "#!/bin/sh
printf 'Content-Type: text/plain\\n\\n'
cd .. && stat -c '%u %a %n' b24proxy/proxy.toml b24proxy/tokens b24proxy/tokens/x.json
echo \"$(id -u) $(id -G | wc -w)\"
";
    let sandbox = Sandbox::with_script(script);
    sandbox.write_config("# empty");
    sandbox.write_token_file("x.json", "{}");
    assert_eq!(sandbox.token_file("x.json").as_deref(), Some(&b"{}"[..]));
    assert_eq!(sandbox.token_file("y.json"), None);
    let text = Cgi::new(&sandbox).run().text();
    let found = lines(&text);
    let (user, groups) = found[3].split_once(' ').unwrap();
    assert_eq!(found[0], format!("{user} 600 b24proxy/proxy.toml"));
    assert_eq!(found[1], format!("{user} 700 b24proxy/tokens"));
    assert_eq!(found[2], format!("{user} 600 b24proxy/tokens/x.json"));
    assert_ne!(user, "0");
    if user == "65534" {
        assert_eq!(groups, "1");
    }
}

#[test]
fn a_body_can_be_trickled_and_a_program_be_killed() {
    let script = "#!/bin/sh
printf 'Content-Type: text/plain\\n\\n'
read -r line; echo \"got $line\" >&2
exec sleep 600
";
    let sandbox = Sandbox::with_script(script);
    let mut running = Cgi::new(&sandbox).content_length(Some(3)).spawn();
    running.write(b"a").unwrap();
    assert!(running.is_running());
    running.write(b"b\n").unwrap();
    eventually("the line is read", || running.stderr() == "got ab\n");
    assert!(running.max_rss().is_some_and(|kib| kib > 100));
    running.signal("TERM");
    let ended = running.wait_for_end();
    assert!(!ended.exit.success());
    assert!(ended.stdout.ends_with(b"\n\n"));
}

#[test]
fn a_program_that_does_not_end_is_killed_and_fails_the_test() {
    let sandbox = Sandbox::with_script("#!/bin/sh\nsleep 600\n");
    let request = Cgi::new(&sandbox).timeout(Duration::from_millis(200));
    let failed = panic::catch_unwind(panic::AssertUnwindSafe(|| request.run()));
    assert!(failed.is_err());
    eventually("the program is killed", || sandbox.processes().is_empty());
}

#[test]
fn a_program_that_does_not_read_its_body_is_no_problem() {
    let sandbox = Sandbox::with_script("#!/bin/sh\nprintf 'Content-Type: a/b\\n\\nearly'\n");
    let request = Cgi::new(&sandbox).method("POST");
    let answer = request.body(vec![b'x'; 4 << 20]).run();
    assert_eq!(answer.text(), "early");
}

#[test]
fn peak_memory_is_measured() {
    let sandbox = Sandbox::with_script(MIRROR);
    let answer = Cgi::new(&sandbox).measure_memory().run();
    assert!(answer.max_rss.is_some_and(|kib| (100..100_000).contains(&kib)));
    assert_eq!(answer.stderr, "from the program\n");
}
