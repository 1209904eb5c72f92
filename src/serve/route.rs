//! Which request is it: the path after the executable's name, decided from the environment alone.

use crate::values::percent;
use crate::values::portal::Version;
use crate::values::request::Variables;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Calls, the authorization's way back, and what Bitrix24 posts: query and body decide.
    Root,
    Install,
    Callback,
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
        Self::of_path(&path(variables))
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
            Route::Install | Route::Callback | Route::Health | Route::Status => "GET, HEAD",
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

/// `PATH_INFO`; where the server passes none, what follows `SCRIPT_NAME` in `REQUEST_URI`.
fn path(variables: &Variables) -> String {
    if let Some(path) = variables.text("PATH_INFO").filter(|path| !path.is_empty()) {
        return path.to_owned();
    }
    let uri = variables.text("REQUEST_URI").unwrap_or("");
    let script = variables.text("SCRIPT_NAME").unwrap_or("");
    // Decoded first, because SCRIPT_NAME is decoded and the address may be encoded anywhere (`/%7Euser/cgi-bin/…`).
    let path = percent_decoded(uri.split('?').next().unwrap_or(""));
    match path.strip_prefix(script) {
        Some(rest) if !script.is_empty() && (rest.is_empty() || rest.starts_with('/')) => rest.to_owned(),
        _ => String::new(),
    }
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
        }
    }
}
