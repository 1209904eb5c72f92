//! The executable and `proxy.toml`.

use super::access::{facts, Facts};
use super::address::{without_route, Address};
use super::line::{Line, Status};
use crate::call::refresh::process::try_start;
use crate::config::{home_of, is_public, Config, Surroundings, Way, Written};
use crate::system::user::{self, name_of, typed};
use crate::values::percent::UNRESERVED;
use std::path::Path;
use std::time::Duration;

const CHECK: &str = "configuration";
/// After which web servers answer 504 themselves (nginx's fastcgi_read_timeout, Apache's Timeout).
const SERVERS_PATIENCE: Duration = Duration::from_secs(60);
/// What many methods begin with, and what is no method itself.
const SCOPES: [&str; 20] = [
    "bizproc",
    "calendar",
    "catalog",
    "crm",
    "department",
    "disk",
    "entity",
    "im",
    "imbot",
    "imopenlines",
    "lists",
    "log",
    "sale",
    "sonet_group",
    "task",
    "tasks",
    "telephony",
    "timeman",
    "user",
    "userfieldconfig",
];

/// Methods that make Bitrix24 post tokens to an address of the caller's choice.
const HANDING_OUT: [&str; 10] = [
    "event.bind",
    "placement.bind",
    "bizproc.activity.add",
    "bizproc.robot.add",
    "bizproc.provider.add",
    "imbot.register",
    "imbot.app.register",
    "imbot.command.register",
    "messageservice.sender.add",
    "userfieldtype.add",
];

/// Tokens are renewed by a process of their own; where the host lets none start, that is heard of when they are due.
pub fn refresher(config: &Config) -> Option<Line> {
    let is_needed = config.portals.iter().any(|portal| matches!(portal.way, Way::OAuth(_)));
    let why = is_needed.then(try_start)?.err()?;
    let text = format!("the process that refreshes tokens cannot be started: {why}");
    Some(Line::fail("refresher", text, "let the host's administrator mend that; calls get 503 host_busy"))
}

/// `runs`: whether the web server has just started the program.
pub fn executable(path: Option<&Path>, runs: bool) -> Vec<Line> {
    let Some(path) = path else { return Vec::new() };
    let folder = path.parent().unwrap_or(Path::new("/"));
    match (facts(path), facts(folder)) {
        (Some(file), Some(above)) => suexec(path, file, folder, above, runs),
        _ => Vec::new(),
    }
}

/// Apache's suexec refuses to start, with a bare "500", what others could have changed or what is not its owner's
/// (httpd.apache.org/docs/2.4/suexec.html, "suEXEC Security Model", 8 to 20).
fn suexec(path: &Path, file: Facts, folder: &Path, above: Facts, runs: bool) -> Vec<Line> {
    const CHECK: &str = "executable";
    let (path, folder) = (typed(path), typed(folder));
    let mut lines = Vec::new();
    for (facts, what) in [(file, &path), (above, &folder)] {
        // In a folder such as /tmp the sticky bit keeps others from replacing it.
        if facts.mode & 0o1002 == 0o002 {
            lines.push(Line::fail(
                CHECK,
                format!(
                    "anybody on this machine can replace it: {what} is writable for others (mode {:o})",
                    facts.mode
                ),
                format!("chmod 755 {what}"),
            ));
        } else if facts.mode & 0o022 != 0 {
            lines.push(Line::warn(
                CHECK,
                format!("{what} is writable for its group (mode {:o}); suexec answers \"500\" to that", facts.mode),
                format!("chmod 755 {what}"),
            ));
        }
    }
    if file.mode & 0o6000 != 0 {
        lines.push(Line::fail(
            CHECK,
            format!("{path} has the setuid or setgid bit, which suexec refuses and this program never needs"),
            format!("chmod 755 {path}"),
        ));
    }
    if file.mode & 0o001 == 0 {
        lines.push(Line::warn(
            CHECK,
            format!("{path} can be started by its owner or group only (mode {:o})", file.mode),
            format!("chmod 755 {path}, unless the web server runs it as user {}", name_of(file.uid)),
        ));
    }
    if (file.uid, file.gid) != (above.uid, above.gid) {
        let (user, group) = (name_of(above.uid), above.gid);
        lines.push(Line::warn(
            CHECK,
            format!("{path} and its folder have different owners; suexec answers \"500\" to that"),
            format!("chown {user}:{group} {path}"),
        ));
    }
    // What would only keep it from starting does not, as the web server has shown.
    lines.retain(|line| !runs || line.status == Status::Fail);
    if lines.is_empty() {
        lines.push(Line::ok(CHECK, format!("{path} (mode {:o})", file.mode)));
    }
    lines
}

/// Whether one user runs the programs of many, so that every customer can read what this program can.
pub fn shared_user(executable: Option<&Path>, config: Option<&Config>) -> Option<Line> {
    let me = user::own()?;
    let places = [executable, config.map(|config| config.path.as_path())];
    let home = places.into_iter().flatten().find_map(home_of)?;
    judge_shared_user(&name_of(me), me, &home, facts(&home)?.uid)
}

fn judge_shared_user(name: &str, me: u32, home: &Path, owner: u32) -> Option<Line> {
    // Where root has laid everything out, the machine serves this one site.
    (user::is_shared(name) && owner != me && owner != 0).then(|| {
        Line::warn(
            "user",
            format!(
                "this runs as {name}, and lies in {}, which is {}'s: where one user runs every customer's programs, what \
                 it can read, your neighbours can read too",
                home.display(),
                name_of(owner)
            ),
            "on rented web space ask the host for suexec, which runs programs as their owner",
        )
    })
}

/// In a folder that others can write to they can put another proxy.toml and token folder in the place of these.
fn judge_folder(folder: &Path, mode: u32) -> Option<Line> {
    let folder = typed(folder);
    // The sticky bit keeps others from replacing what they do not own.
    (mode & 0o022 != 0 && mode & 0o1000 == 0).then(|| {
        let text = format!(
            "{folder} is writable for others (mode {mode:o}): they could replace proxy.toml and the token folder in it"
        );
        Line::fail(CHECK, text, format!("chmod go-w {folder}"))
    })
}

/// What can be read but cannot work, and what nobody can install without.
fn doubtful_values(config: &Config) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut warn = |text: String, cure: String| lines.push(Line::warn(CHECK, text, cure));
    if let Some(uri) = &config.bitrix24.redirect_uri {
        if let Some(own) = without_route(uri) {
            warn(
                format!("redirect_uri = {uri:?} names an address below the program's own"),
                format!("write redirect_uri = {own:?}, here and in the application's settings"),
            );
        }
        if !config.bitrix24.allow_http && Address::parse(uri).is_ok_and(|address| address.is_open()) {
            warn(
                format!("redirect_uri = {uri:?} is plain http: what Bitrix24 sends there can be read on the way"),
                format!(
                    "write redirect_uri = {:?}, here and in the application's settings",
                    uri.replacen("http", "https", 1)
                ),
            );
        }
    }
    let (timeout, max_wait) = (config.bitrix24.timeout, config.limits.max_wait);
    if timeout >= SERVERS_PATIENCE {
        warn(
            format!("timeout = {}: most web servers give up after 60 s", timeout.as_secs()),
            "write timeout = 55 under [bitrix24]".into(),
        );
    }
    if max_wait > timeout {
        warn(
            format!("max_wait = {} is above timeout = {}", max_wait.as_secs(), timeout.as_secs()),
            format!("write max_wait = {} under [limits]", (timeout.as_secs() / 2).max(1)),
        );
    }
    for client in &config.clients {
        let methods = client.methods.as_deref().unwrap_or(&[]);
        let allows = |method: &str| methods.iter().any(|pattern| pattern.matches(method));
        for scope in SCOPES.into_iter().filter(|scope| allows(scope) && !allows(&format!("{scope}.x"))) {
            warn(
                format!("client {:?}: methods names {scope:?}, but there is no method of that name", client.name),
                format!("write \"{scope}.*\" for all that begin so"),
            );
        }
        let handing_out: Vec<&str> = HANDING_OUT.into_iter().filter(|method| allows(method)).collect();
        let is_limited = !allows("any.method");
        if is_limited && !handing_out.is_empty() {
            warn(
                format!(
                    "client {:?} may call {}: these make Bitrix24 post tokens to an address of the caller's choice, so that \
                     its other limits are worth nothing",
                    client.name,
                    handing_out.join(", ")
                ),
                "name the methods that it needs one by one, without these".into(),
            );
        }
    }
    lines
}

/// What nothing works without.
fn missing(written: &Written) -> Vec<Line> {
    let mut lines = Vec::new();
    if !written.portals {
        let cure = "add [portals.\"acme.bitrix24.ru\"] to proxy.toml, with your portal's host in its place";
        lines.push(Line::fail(CHECK, "no portal is configured", cure));
    }
    if !written.clients {
        lines.push(Line::fail(CHECK, "no client is configured: every call is refused", "b24proxy token"));
    }
    if !written.redirect_uri {
        lines.push(Line::warn(
            CHECK,
            "redirect_uri is not set, so nobody can install in a browser",
            "set it under [bitrix24] to this program's public address, as in the application's settings",
        ));
    }
    lines
}

fn judge_token(client: &str, token: &str) -> Option<Line> {
    if !token.is_ascii() {
        let text = format!("the token of client {client:?} has letters beyond ASCII, which not every client can send");
        return Some(Line::warn(CHECK, text, "b24proxy token"));
    }
    // The characters that stand for themselves in an address (RFC 3986, section 2.3).
    let in_addresses = token.bytes().all(|b| b.is_ascii_alphanumeric() || UNRESERVED.contains(&b));
    (!in_addresses).then(|| {
        Line::ok(CHECK, format!("the token of client {client:?} works in headers, but not in a webhook's address"))
    })
}

pub fn configuration(surroundings: &Surroundings, loaded: Result<&Config, &String>) -> Vec<Line> {
    let config = match loaded {
        Err(why) => {
            let wrong = why.lines().map(|why| Line::reason(CHECK, why));
            let missing = Written::at(surroundings).map(|written| missing(&written)).unwrap_or_default();
            return wrong.chain(missing).collect();
        }
        Ok(config) => config,
    };
    let path = config.path.display();
    let (portals, clients) = (config.portals.len(), config.clients.len());
    let mut lines = vec![Line::ok(CHECK, format!("{path}; portals: {portals}, clients: {clients}"))];
    let without = Surroundings { named: None, ..surroundings.clone() };
    if surroundings.named.is_some() && without.locate().as_deref() != Some(&config.path) {
        lines.push(Line::warn(
            CHECK,
            format!("{path} is found through $B24PROXY_CONFIG only"),
            "set it for the web server too (suexec passes none on), or move the file to where the search finds it",
        ));
    }
    let installs = config.portals.iter().any(|portal| portal.application().is_some());
    let redirect_uri = !installs || config.bitrix24.redirect_uri.is_some();
    lines.extend(missing(&Written { portals: portals > 0, clients: clients > 0, redirect_uri }));
    lines.extend(doubtful_values(config));
    let tokens = config.plain_tokens();
    lines.extend(tokens.iter().filter_map(|(client, token)| judge_token(client, token.expose())));
    let folder = config.path.parent().unwrap_or(Path::new("/"));
    lines.extend(facts(folder).and_then(|facts| judge_folder(folder, facts.mode)));
    for (what, place) in [("the configuration", config.path.as_path()), ("the token folder", &config.token_folder)] {
        if let Some(public) = public_part(place) {
            lines.push(Line::warn(
                CHECK,
                format!(
                    "{what} {} lies in {public}, which looks like a folder that the web server hands out",
                    place.display()
                ),
                "move it above that folder, to a folder b24proxy beside it",
            ));
        }
    }
    lines.extend(config.log.file.as_deref().map(log_file));
    lines
}

fn log_file(file: &Path) -> Line {
    const CHECK: &str = "log";
    match crate::system::log::open(file, false) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Line::warn(
            CHECK,
            format!("{} cannot be written ({error})", file.display()),
            "mend its owner or path; until then the web server's error log is used",
        ),
        Err(_) if !file.parent().is_some_and(Path::is_dir) => Line::warn(
            CHECK,
            format!("the folder of {} does not exist", file.display()),
            "make it; until then the web server's error log is used",
        ),
        _ => Line::ok(CHECK, file.display().to_string()),
    }
}

/// A folder in this path whose name hosts give to what they hand out.
fn public_part(path: &Path) -> Option<&str> {
    path.ancestors().skip(1).filter(|folder| is_public(folder)).last()?.file_name()?.to_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(file: u32, above: u32, owners: (u32, u32)) -> Vec<(Status, String)> {
        judged(file, above, owners, false)
    }

    fn judged(file: u32, above: u32, owners: (u32, u32), runs: bool) -> Vec<(Status, String)> {
        let facts = |mode, uid| Facts { mode, uid, gid: uid };
        let (file, above) = (facts(file, owners.0), facts(above, owners.1));
        let lines = suexec(Path::new("/c/b24proxy"), file, Path::new("/c"), above, runs);
        lines.into_iter().map(|line| (line.status, line.text + &line.cure)).collect()
    }

    #[test]
    fn a_limited_client_that_can_have_tokens_posted_to_itself_is_named() {
        let warned = |methods: &str| {
            let text = format!("[[security.clients]]\nname = \"x\"\ntoken = \"a-token-of-twenty-chars\"\n{methods}");
            let config = Config::parse(&text, Path::new("/proxy.toml")).unwrap();
            doubtful_values(&config).into_iter().map(|line| line.text).collect::<String>()
        };
        for (methods, named) in [
            ("methods = [\"event.*\"]", "event.bind"),
            ("methods = [\"crm.*\", \"placement.bind\"]", "placement.bind"),
            ("methods = [\"bizproc.*\"]", "bizproc.activity.add, bizproc.robot.add"),
            ("methods = [\"imbot.*\"]", "imbot.register"),
            ("methods = [\"messageservice.*\", \"userfieldtype.*\"]", "messageservice.sender.add, userfieldtype.add"),
        ] {
            assert!(warned(methods).contains(named), "{methods}: {}", warned(methods));
        }
        assert_eq!(warned("methods = [\"crm.*\", \"event.get\", \"disk.*\", \"batch\"]"), "");
        for methods in ["", "methods = [\"*\"]"] {
            assert_eq!(warned(methods), "", "who may do everything is not limited by this: {methods}");
        }
    }

    #[test]
    fn what_suexec_refuses_is_named() {
        assert_eq!(of(0o755, 0o755, (1, 1))[0].0, Status::Ok);
        let cases = [
            (of(0o757, 0o755, (1, 1)), Status::Fail, "chmod 755 /c/b24proxy"),
            (of(0o775, 0o755, (1, 1)), Status::Warn, "chmod 755 /c/b24proxy"),
            (of(0o755, 0o777, (1, 1)), Status::Fail, "chmod 755 /c"),
            (of(0o755, 0o775, (1, 1)), Status::Warn, "chmod 755 /c"),
            (of(0o4755, 0o755, (1, 1)), Status::Fail, "setuid"),
            (of(0o700, 0o755, (1, 1)), Status::Warn, "owner"),
            (of(0o755, 0o755, (0, 61234)), Status::Warn, "chown 61234:61234 /c/b24proxy"),
        ];
        for (lines, status, word) in cases {
            assert!(lines.len() == 1 && lines[0].0 == status && lines[0].1.contains(word), "{lines:?}");
        }
    }

    #[test]
    fn what_suexec_would_refuse_is_well_where_the_web_server_runs_it() {
        for (file, above, owners) in [(0o775, 0o755, (1, 1)), (0o755, 0o755, (0, 61234)), (0o700, 0o755, (1, 1))] {
            assert_eq!(judged(file, above, owners, true)[0].0, Status::Ok);
        }
        assert_eq!(judged(0o757, 0o755, (1, 1), true)[0].0, Status::Fail, "anybody could replace it");
    }

    #[test]
    fn a_user_that_runs_the_programs_of_many_warns_in_a_customers_folder_only() {
        let home = |path: &str| home_of(Path::new(path));
        assert_eq!(home("/home/u/public_html/cgi-bin/b24proxy"), Some("/home/u".into()));
        assert_eq!(home("/home2/u/b24proxy/proxy.toml"), Some("/home2/u".into()));
        assert_eq!(home("/var/www/vhosts/example.com/cgi-bin/b24proxy"), Some("/var/www/vhosts/example.com".into()));
        assert_eq!(home("/usr/lib/cgi-bin/b24proxy"), None);
        assert_eq!(home("/var/www/cgi-bin/b24proxy"), None);
        let warns = |name, me, owner| judge_shared_user(name, me, Path::new("/home/u"), owner).is_some();
        assert!(warns("www-data", 33, 1000));
        assert!(!warns("www-data", 33, 0), "root has laid it out");
        assert!(!warns("www-data", 33, 33));
        assert!(!warns("u", 1000, 1001), "a user of his own");
    }

    #[test]
    fn a_folder_in_which_others_could_replace_the_configuration_fails() {
        for (mode, fails) in
            [(0o755, false), (0o700, false), (0o711, false), (0o775, true), (0o757, true), (0o1777, false)]
        {
            let line = judge_folder(Path::new("/home/u/b24proxy"), mode);
            assert_eq!(line.is_some(), fails, "{mode:o}");
            assert!(line.is_none_or(|line| line.cure == "chmod go-w /home/u/b24proxy"), "{mode:o}");
        }
    }

    #[test]
    fn values_that_cannot_work_warn_with_a_right_line() {
        let lines = |bitrix24: &str, security: &str, more: &str| {
            let text =
                format!("[bitrix24]\n{bitrix24}\n[security]\n{security}\n[[security.clients]]\nname = \"1c\"\n{more}");
            let config = Config::parse(&text, Path::new("/nowhere/proxy.toml")).unwrap();
            doubtful_values(&config).into_iter().map(|line| line.cure).collect::<Vec<_>>()
        };
        let client = "token_sha256 = \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"\n";
        let uri = |uri: &str| lines(&format!("redirect_uri = \"{uri}\""), "", client);
        assert!(uri("https://a.example/b24proxy").is_empty());
        assert!(uri("http://127.0.0.1:8080/b24proxy").is_empty(), "local");
        assert!(uri("http://a.example/b24proxy")[0].contains("redirect_uri = \"https://a.example/b24proxy\""));
        assert!(uri("https://a.example/b24proxy/install")[0].contains("redirect_uri = \"https://a.example/b24proxy\""));
        assert!(lines("redirect_uri = \"http://a.example/b24proxy\"\nallow_http = true", "", client).is_empty());
        assert!(lines("timeout = 60", "", client)[0].contains("timeout = 55"));
        assert!(lines("timeout = 15", "", client)[0].contains("max_wait = 7"), "the default is 20");
        let methods = |methods: &str| lines("", "", &format!("{client}methods = [{methods}]"));
        assert_eq!(methods("\"crm\""), ["write \"crm.*\" for all that begin so"]);
        for good in
            ["\"crm.*\"", "\"crm*\"", "\"*\"", "\"batch\", \"profile\", \"scope\", \"methods\"", "\"crm\", \"crm.*\""]
        {
            assert!(methods(good).is_empty(), "{good}");
        }
    }

    #[test]
    fn folders_that_are_handed_out_are_known_by_name() {
        assert_eq!(public_part(Path::new("/home/u/public_html/b24proxy/proxy.toml")), Some("public_html"));
        assert_eq!(public_part(Path::new("/var/www/html/cgi-bin/proxy.toml")), Some("html"));
        assert_eq!(public_part(Path::new("/var/www/b24proxy/proxy.toml")), None);
        assert_eq!(public_part(Path::new("/home/u/b24proxy/proxy.toml")), None);
    }
}
