//! Which request is it: the path after the executable's name, decided from the environment alone.

use crate::system::disk;
use crate::values::percent;
use crate::values::portal::Version;
use crate::values::request::Variables;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Calls, the authorization's way back, and what Bitrix24 posts: query and body decide.
    Root,
    /// The same opened in a browser, without a query that means something.
    Front,
    Install,
    Callback,
    /// The page of a finished installation, which can be loaded again.
    Installed,
    Health,
    Status,
    File,
    Webhook(WebhookPath),
    /// Below `/rest/`, with a part too few or too many: the form that is right.
    NearlyWebhook(Version, &'static str),
    Unknown,
}

/// `/[{portal}/]rest/[api/]{user id}/{client token}/{method}`
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookPath {
    pub portal: Option<String>,
    pub version: Version,
    pub user: String,
    pub token: String,
    pub method: String,
    /// A slash follows the method.
    pub slash: bool,
}

impl std::fmt::Debug for WebhookPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} *** {:?}", self.portal, self.version, self.method)
    }
}

impl Route {
    pub fn of(variables: &Variables) -> Route {
        Self::of_path(&path(variables, running))
    }

    fn of_path(path: &str) -> Route {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match segments.as_slice() {
            [] => Route::Root,
            ["install"] => Route::Install,
            ["callback"] => Route::Callback,
            ["health"] => Route::Health,
            ["status"] => Route::Status,
            ["file"] => Route::File,
            ["rest", rest @ ..] => webhook(None, rest, path.ends_with('/')),
            [portal, "rest", rest @ ..] => webhook(Some((*portal).to_owned()), rest, path.ends_with('/')),
            _ => Route::Unknown,
        }
    }

    /// What is answered at this address, beside `OPTIONS`.
    pub fn methods(&self) -> &'static str {
        match self {
            Route::Root => "POST",
            Route::Webhook(_) => "GET, POST",
            Route::File => "GET, HEAD, POST",
            Route::Front | Route::Install | Route::Callback | Route::Installed => "GET, HEAD",
            Route::Health | Route::Status => "GET, HEAD",
            Route::NearlyWebhook(..) | Route::Unknown => "",
        }
    }

    pub fn supports(&self, method: &str) -> bool {
        self.methods().split(", ").any(|known| known == method && !method.is_empty())
    }

    /// Whose shape errors have here: of this version of Bitrix24's REST, or else the envelope's.
    pub fn version(&self) -> Option<Version> {
        match self {
            Route::Webhook(path) => Some(path.version),
            Route::NearlyWebhook(version, _) => Some(*version),
            _ => None,
        }
    }
}

fn webhook(portal: Option<String>, segments: &[&str], slash: bool) -> Route {
    let (version, segments) = match segments {
        ["api", rest @ ..] => (Version::V3, rest),
        rest => (Version::V2, rest),
    };
    match segments {
        [user, token, method] => {
            let [user, token, method] = [*user, *token, *method].map(str::to_owned);
            Route::Webhook(WebhookPath { portal, version, user, token, method, slash })
        }
        _ => Route::NearlyWebhook(
            version,
            match (portal, version) {
                (None, Version::V2) => "/rest/1/TOKEN/METHOD",
                (None, Version::V3) => "/rest/api/1/TOKEN/METHOD",
                (Some(_), Version::V2) => "/PORTAL/rest/1/TOKEN/METHOD",
                (Some(_), Version::V3) => "/PORTAL/rest/api/1/TOKEN/METHOD",
            },
        ),
    }
}

/// The program's own address on its server: `SCRIPT_NAME`, without the route where the server has not split it off.
pub fn own_path(variables: &Variables) -> Option<&str> {
    let script = variables.text("SCRIPT_NAME")?;
    let path = path(variables, running);
    Some(script.strip_suffix(path.as_str()).unwrap_or(script))
}

/// `PATH_INFO`; where the server passes none, what follows `SCRIPT_NAME` in `REQUEST_URI`; and where the server has not split
/// the address at all (nginx without `fastcgi_split_path_info`: `SCRIPT_NAME` has all of it), what follows the program in it.
///
/// What a caller writes behind the program's name decides about the route and nothing else, in each of these ways.
fn path(variables: &Variables, program: impl Fn() -> Option<PathBuf>) -> String {
    let script = variables.text("SCRIPT_NAME").unwrap_or("");
    // Decoded first, because SCRIPT_NAME is decoded and the address may be encoded anywhere (`/%7Euser/cgi-bin/…`).
    let uri = variables.text("REQUEST_URI").unwrap_or("").split('?').next().unwrap_or("");
    let uri = percent_decoded(uri);
    let is_whole = |path: &str| path == uri && after(script, path).is_some();
    match variables.text("PATH_INFO") {
        // IIS, and nginx with `PATH_INFO $uri`: all of the address stands here too.
        Some(path) if !path.is_empty() && !is_whole(path) => return path.to_owned(),
        _ => {}
    }
    match after(script, &uri) {
        Some(path) if !path.is_empty() => path.to_owned(),
        _ => unsplit(&[script, &uri], program, variables.text("SCRIPT_FILENAME")).unwrap_or("").to_owned(),
    }
}

/// What follows the program's address.
fn after<'p>(script: &str, address: &'p str) -> Option<&'p str> {
    let rest = address.strip_prefix(script).filter(|_| !script.is_empty())?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// The path in the first of these that holds a route: what follows the running program, by the name of its own file or by
/// the one that the server started it under; or else a webhook's whole address at the root of the host. Anything else may be
/// the program's own address, of whatever name.
fn unsplit<'p>(
    addresses: &[&'p str],
    program: impl Fn() -> Option<PathBuf>,
    started_as: Option<&str>,
) -> Option<&'p str> {
    let after_any = |program: &Path| {
        let mut paths = addresses.iter().filter_map(|address| after_program(address, program));
        paths.find(|path| Route::of_path(path) != Route::Unknown)
    };
    let is_webhook = |address: &&&str| matches!(Route::of_path(address), Route::Webhook(_));
    program()
        .and_then(|program| after_any(&program))
        .or_else(|| after_any(Path::new(started_as?)))
        .or_else(|| addresses.iter().find(is_webhook).copied())
}

/// `/health` of `/cgi-bin/b24proxy/health`. A folder above may have the program's name too (`/b24proxy/cgi-bin/b24proxy`), so
/// the program is looked for together with its folder first. The first place counts: a caller can only add others behind it.
fn after_program<'p>(address: &'p str, program: &Path) -> Option<&'p str> {
    let name = program.file_name()?.to_str()?;
    let folder = program.parent().and_then(Path::file_name).and_then(OsStr::to_str);
    let after = |path: String| {
        let mut ends = address.match_indices(&path).map(|(at, found)| &address[at + found.len()..]);
        ends.find(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    folder.and_then(|folder| after(format!("/{folder}/{name}"))).or_else(|| after(format!("/{name}")))
}

/// The same for as long as this process runs.
fn running() -> Option<PathBuf> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    PATH.get_or_init(|| disk::own_path().ok()).clone()
}

/// Percent-decoding as web servers do it for `PATH_INFO`. What is not UTF-8 is replaced, and then matches no route.
fn percent_decoded(text: &str) -> String {
    String::from_utf8_lossy(&percent::decoded(text.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(variables: &[(&str, &str)]) -> Route {
        Route::of(&Variables::from_pairs(variables))
    }

    /// The path, of a request to the program at this place.
    fn path_of(program: &str, variables: &[(&str, &str)]) -> String {
        path(&Variables::from_pairs(variables), || Some(PathBuf::from(program)).filter(|_| !program.is_empty()))
    }

    #[test]
    fn the_path_after_the_executable_decides() {
        assert_eq!(of(&[("PATH_INFO", "/install")]), Route::Install);
        assert_eq!(of(&[("PATH_INFO", "/install/")]), Route::Install);
        assert_eq!(of(&[("PATH_INFO", "/")]), Route::Root);
        assert_eq!(of(&[("PATH_INFO", "/nothing")]), Route::Unknown);
        assert_eq!(of(&[("PATH_INFO", "/installx")]), Route::Unknown);
    }

    #[test]
    fn without_path_info_the_request_uri_decides() {
        let script = ("SCRIPT_NAME", "/cgi-bin/b24proxy");
        assert_eq!(of(&[script, ("REQUEST_URI", "/cgi-bin/b24proxy/health?x=/install")]), Route::Health);
        assert_eq!(of(&[script, ("REQUEST_URI", "/cgi-bin/b24proxy/he%61lth")]), Route::Health);
        assert_eq!(of(&[script, ("REQUEST_URI", "/%63gi-bin/b24proxy/health")]), Route::Health);
        assert_eq!(of(&[script, ("REQUEST_URI", "/cgi-bin/b24proxy/%ff")]), Route::Unknown);
        assert_eq!(of(&[script, ("REQUEST_URI", "/cgi-bin/b24proxy2/health")]), Route::Root);
        assert_eq!(of(&[script, ("REQUEST_URI", "/cgi-bin/b24proxy")]), Route::Root);
        assert_eq!(of(&[script]), Route::Root);
    }

    #[test]
    fn an_address_that_no_server_has_split_is_split_after_the_program() {
        const USUAL: &str = "/usr/lib/cgi-bin/b24proxy";
        for (program, address, right) in [
            (USUAL, "/cgi-bin/b24proxy/health", "/health"),
            (USUAL, "/cgi-bin/b24proxy", ""),
            (USUAL, "/cgi-bin/b24proxy/", "/"),
            (USUAL, "/cgi-bin/b24proxy/rest/1/T/profile", "/rest/1/T/profile"),
            (USUAL, "/tools/b24proxy/acme/rest/1/T/profile", "/acme/rest/1/T/profile"),
            (USUAL, "/~user/cgi-bin/b24proxy/status", "/status"),
            ("/srv/www/b24", "/b24/health", "/health"),
            // Folders that are called as the program is.
            ("/srv/b24proxy/b24proxy", "/b24proxy/b24proxy/health", "/health"),
            ("/srv/b24proxy/b24proxy", "/b24proxy/health", "/health"),
            ("/var/www/b24proxy/cgi-bin/b24proxy", "/b24proxy/cgi-bin/b24proxy/health", "/health"),
            (USUAL, "/cgi-bin/b24proxy2/health", ""),
            (USUAL, "/cgi-bin/xb24proxy/health", ""),
            // What is written behind the program finds no other place.
            (USUAL, "/cgi-bin/b24proxy/x/b24proxy/status", ""),
            (USUAL, "/cgi-bin/b24proxy/x/cgi-bin/b24proxy/status", ""),
            (USUAL, "/cgi-bin/b24proxy/usr/lib/cgi-bin/b24proxy/status", ""),
            // At the root of a host.
            (USUAL, "/rest/1/T/profile", "/rest/1/T/profile"),
            (USUAL, "/acme.bitrix24.ru/rest/api/1/T/profile", "/acme.bitrix24.ru/rest/api/1/T/profile"),
            ("", "/rest/1/T/profile", "/rest/1/T/profile"),
            ("", "/cgi-bin/b24proxy/health", ""),
            // The program at an address of another name.
            (USUAL, "/rest", ""),
            (USUAL, "/tools/status", ""),
            (USUAL, "/b24proxy/run", ""),
        ] {
            for variables in [
                vec![("SCRIPT_NAME", address)],
                vec![("SCRIPT_NAME", address), ("PATH_INFO", ""), ("REQUEST_URI", address)],
                vec![("SCRIPT_NAME", address), ("PATH_INFO", address), ("REQUEST_URI", address)],
                vec![("REQUEST_URI", address)],
            ] {
                assert_eq!(path_of(program, &variables), right, "{program} {variables:?}");
            }
        }
    }

    #[test]
    fn a_program_of_another_name_than_its_file_is_found_by_the_one_it_was_started_under() {
        let started = ("SCRIPT_FILENAME", "/srv/www/cgi-bin/proxy");
        let script = ("SCRIPT_NAME", "/cgi-bin/proxy/health");
        assert_eq!(path_of("/opt/b24proxy/b24proxy", &[started, script]), "/health");
        assert_eq!(path_of("", &[started, script]), "/health");
    }

    #[test]
    fn what_a_server_has_split_is_not_split_again() {
        let program = "/usr/lib/cgi-bin/b24proxy";
        let script = ("SCRIPT_NAME", "/cgi-bin/b24proxy");
        for (path, uri) in [
            ("/x/b24proxy/status", "/cgi-bin/b24proxy/x/b24proxy/status"),
            ("/cgi-bin/b24proxy/status", "/cgi-bin/b24proxy/cgi-bin/b24proxy/status"),
            // Rewritten by the server, which leaves the first address in REQUEST_URI.
            ("/rest/1/T/profile", "/rest/1/T/profile"),
        ] {
            assert_eq!(path_of(program, &[script, ("PATH_INFO", path), ("REQUEST_URI", uri)]), path);
        }
        // At the root of a host there is no name before the path.
        let root = [("SCRIPT_NAME", ""), ("PATH_INFO", "/rest/1/T/m"), ("REQUEST_URI", "/rest/1/T/m")];
        assert_eq!(path_of(program, &root), "/rest/1/T/m");
        // IIS repeats the program's own address.
        let whole = ("PATH_INFO", "/cgi-bin/b24proxy/health");
        assert_eq!(path_of("", &[script, whole, ("REQUEST_URI", "/cgi-bin/b24proxy/health?x=1")]), "/health");
    }

    #[test]
    fn the_programs_own_path_is_without_the_route() {
        let own = |pairs: &[(&str, &str)]| own_path(&Variables::from_pairs(pairs)).map(str::to_owned);
        let script = ("SCRIPT_NAME", "/cgi-bin/b24proxy");
        assert_eq!(own(&[script, ("PATH_INFO", "/rest/1/T/m")]).as_deref(), Some("/cgi-bin/b24proxy"));
        assert_eq!(own(&[script]).as_deref(), Some("/cgi-bin/b24proxy"));
        let whole = ("SCRIPT_NAME", "/cgi-bin/b24proxy/rest/1/T/m");
        let started = ("SCRIPT_FILENAME", "/usr/lib/cgi-bin/b24proxy");
        assert_eq!(own(&[whole, started]).as_deref(), Some("/cgi-bin/b24proxy"));
        assert_eq!(own(&[("SCRIPT_NAME", "/rest/1/T/m")]).as_deref(), Some(""));
        assert_eq!(own(&[]), None);
    }

    #[test]
    fn webhook_addresses_name_portal_version_token_and_method() {
        let Route::Webhook(path) = of(&[("PATH_INFO", "/acme/rest/api/1/TOKEN/tasks.task.get")]) else { panic!() };
        assert_eq!(path.portal.as_deref(), Some("acme"));
        assert_eq!(path.version, Version::V3);
        assert_eq!((path.token.as_str(), path.method.as_str()), ("TOKEN", "tasks.task.get"));
        assert!(!format!("{path:?}").contains("TOKEN"));
        let Route::Webhook(path) = of(&[("PATH_INFO", "/rest/1/TOKEN/profile.json")]) else { panic!() };
        assert_eq!((path.portal, path.version), (None, Version::V2));
    }

    #[test]
    fn whatever_is_nearly_a_webhooks_address_has_the_form_that_is_right() {
        for (path, form) in [
            ("/rest", "/rest/1/TOKEN/METHOD"),
            ("/rest/", "/rest/1/TOKEN/METHOD"),
            ("/rest/profile", "/rest/1/TOKEN/METHOD"),
            ("/rest/1/SECRET", "/rest/1/TOKEN/METHOD"),
            ("/rest/1/SECRET/", "/rest/1/TOKEN/METHOD"),
            ("/rest//SECRET/profile", "/rest/1/TOKEN/METHOD"),
            ("/rest/1/SECRET/profile/profile", "/rest/1/TOKEN/METHOD"),
            ("/rest/1/SECRET/api/profile", "/rest/1/TOKEN/METHOD"),
            ("/rest/api", "/rest/api/1/TOKEN/METHOD"),
            ("/rest/api/SECRET/profile", "/rest/api/1/TOKEN/METHOD"),
            ("/acme.bitrix24.ru/rest/SECRET/profile", "/PORTAL/rest/1/TOKEN/METHOD"),
            ("/acme/rest/api/", "/PORTAL/rest/api/1/TOKEN/METHOD"),
        ] {
            let route = of(&[("PATH_INFO", path)]);
            assert!(matches!(route, Route::NearlyWebhook(_, right) if right == form), "{path}: {route:?}");
            assert!(!format!("{route:?}").contains("SECRET"));
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "\\PC{0,60}", uri in "[/%a-z0-9?]{0,60}") {
            let _ = of(&[("PATH_INFO", &path)]);
            let _ = of(&[("SCRIPT_NAME", "/c"), ("REQUEST_URI", &format!("/c{uri}"))]);
            let _ = path_of("/c/c", &[("SCRIPT_NAME", &path), ("PATH_INFO", &uri), ("REQUEST_URI", &uri)]);
        }

        #[test]
        fn what_is_written_behind_the_program_is_the_path_of_a_server_that_splits_and_of_one_that_does_not(
            path in "(/(cgi-bin|b24proxy|usr|lib|rest|status|1|x)){0,7}/?",
        ) {
            let (program, address) = ("/usr/lib/cgi-bin/b24proxy", format!("/cgi-bin/b24proxy{path}"));
            let unsplit = path_of(program, &[("SCRIPT_NAME", &address), ("REQUEST_URI", &address)]);
            let is_known = Route::of_path(&path) != Route::Unknown;
            prop_assert_eq!(unsplit, if is_known { path.clone() } else { String::new() });
            let split = [("SCRIPT_NAME", "/cgi-bin/b24proxy"), ("PATH_INFO", path.as_str()), ("REQUEST_URI", &address)];
            prop_assert_eq!(path_of(program, &split), path);        }
    }
}
