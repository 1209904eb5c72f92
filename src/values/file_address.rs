//! The address of a file, as Bitrix24 answers it: `https://PORTAL/rest/download.json?auth=…&token=disk|…|signature`.
//!
//! Bitrix24 checks the signature of such an address only where it reads a `token`, in query and body together; so an address
//! that holds one, and nothing else that could be a parameter, may pass without a client's list of methods.

use super::mask;
use super::method::Method;
use super::portal::{split_address, PortalName, Scheme};
use super::secret::Secret;
use super::signed;
use std::borrow::Cow;

/// The part of it behind the portal's `/rest/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAddress {
    /// `USER` and `CODE` of the portal's own webhook, the code as its name ([`mask::name_of`]).
    pub webhook: Option<(String, String)>,
    pub method: Method,
    /// Whether a slash follows the method, as in addresses of webhooks.
    slash: bool,
    /// The access token that is signed with it, as its name.
    pub auth: Option<String>,
    /// As it was written, `auth` included.
    query: String,
}

impl FileAddress {
    /// A whole address, with the portal that it is of. The error says what is wrong with it.
    pub fn parse(address: &str) -> Result<(Scheme, PortalName, FileAddress), &'static str> {
        const FORM: &str = "is not an address such as https://acme.bitrix24.ru/rest/download.json?token=…";
        let (place, query) = address.split_once('?').ok_or(FORM)?;
        let (scheme, name, path) = split_address(place).ok_or(FORM)?;
        let rest = path.strip_prefix("/rest/").ok_or(FORM)?;
        let (rest, slash) = rest.strip_suffix('/').map_or((rest, false), |rest| (rest, true));
        let (webhook, method) = match rest.split('/').collect::<Vec<_>>().as_slice() {
            [method] => (None, *method),
            [user, code, method] if user.bytes().all(|b| b.is_ascii_digit()) => {
                (Some(((*user).to_owned(), (*code).to_owned())), *method)
            }
            _ => return Err(FORM),
        };
        if webhook.as_ref().is_some_and(|(user, code)| user.is_empty() || !mask::is_name(code)) {
            return Err("has no code of a webhook as this program answers it (b24proxy-…)");
        }
        Ok((scheme, name, FileAddress { webhook, ..FileAddress::of_parts(method, slash, query)? }))
    }

    /// What a webhook client asks for: a method and a query.
    pub fn of_parts(method: &str, slash: bool, query: &str) -> Result<FileAddress, &'static str> {
        let method = Method::parse(method).filter(|method| !method.is_batch() && !method.wants_xml());
        let method = method.ok_or("names no method that gives or takes files")?;
        let (mut tokens, mut auth) = (0, None);
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("token", value)) if is_plain(value) && !value.is_empty() => tokens += 1,
                Some(("auth", value)) if auth.is_none() && mask::is_name(value) => auth = Some(value.to_owned()),
                Some(("auth", _)) => return Err("holds an auth that is not as this program answered it (b24proxy-…)"),
                _ => return Err("must hold token=… and nothing else but auth=…"),
            }
        }
        match tokens {
            1 => Ok(FileAddress { webhook: None, method, slash, auth, query: query.to_owned() }),
            _ => Err("must hold token=… once"),
        }
    }

    /// What follows `/rest/` or the code of a webhook, with the secret that it was signed with, if any, in the place of its
    /// name. `None`: it was signed with another one.
    pub fn tail(&self, secret: Option<&Secret>) -> Option<String> {
        let slash = if self.slash { "/" } else { "" };
        let put_back = |pair: &str| match (pair.split_once('='), secret) {
            (Some(("auth", _)), Some(secret)) => serde_urlencoded::to_string([("auth", secret.expose())]).ok(),
            (Some(("token", token)), _) => Some(format!("token={}", put_back(token, secret)?)),
            _ => Some(pair.to_owned()),
        };
        let query: Option<Vec<String>> = self.query.split('&').map(put_back).collect();
        Some(format!("{}{slash}?{}", self.method.as_str(), query?.join("&")))
    }
}

/// The value of a `token`, percent-encoded, with a secret in the place of its name wherever its base64 holds that. `None`: it
/// holds the name of another secret.
pub fn put_back<'t>(token: &'t str, secret: Option<&Secret>) -> Option<Cow<'t, str>> {
    let token = match secret {
        Some(secret) => {
            let name = mask::name_of(secret);
            let restored = signed::with_text_replaced(token, &name, secret.expose());
            restored.map_or(Cow::Borrowed(token), Cow::Owned)
        }
        None => token.into(),
    };
    signed::with_text_replaced(&token, mask::PREFIX, "").is_none().then_some(token)
}

/// Whether a query holds a `token`, as PHP reads it: then it is the address of a file.
pub fn holds_token(query: &[u8]) -> bool {
    super::form::names(query).any(|name| super::form::variable(&name) == b"token")
}

/// Characters that may stand in a query (RFC 3986, section 3.4), and `|`, which Bitrix24 writes.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$'()*,;:@/?%|+=".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "b24proxy-0123456789ab";

    fn refused(address: &str) -> bool {
        FileAddress::parse(address).is_err()
    }

    #[test]
    fn an_address_is_a_method_with_a_token_and_perhaps_its_auth() {
        let parse = |address: &str| FileAddress::parse(address).unwrap().2;
        let address = parse("https://acme.bitrix24.ru/rest/download.json?token=disk%7CaWQ9MQ%3D%3D%7Csig");
        assert_eq!((address.method.as_str(), &address.auth, &address.webhook), ("download.json", &None, &None));
        assert_eq!(address.tail(None).as_deref(), Some("download.json?token=disk%7CaWQ9MQ%3D%3D%7Csig"));
        let address = parse(&format!("https://crm.example.org:8443/rest/crm.x.y?auth={NAME}&token=a|b"));
        assert_eq!(address.auth.as_deref(), Some(NAME));
        assert_eq!(address.tail(Some(&Secret::new("t+k"))).as_deref(), Some("crm.x.y?auth=t%2Bk&token=a|b"));
        let address = parse(&format!("https://acme.bitrix24.ru/rest/1/{NAME}/download/?token=x"));
        assert_eq!(address.webhook, Some(("1".to_owned(), NAME.to_owned())));
        assert_eq!(address.tail(None).as_deref(), Some("download/?token=x"));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "download.json?token=x",
            "https://acme.bitrix24.ru/rest/download.json",
            "https://acme.bitrix24.ru/rest/download.json?",
            "https://acme.bitrix24.ru/rest/download.json?token=",
            "https://acme.bitrix24.ru/rest/download.json?token",
            "https://acme.bitrix24.ru/rest/download.json?token=x&token=y",
            "https://acme.bitrix24.ru/rest/download.json?token=x&token[]=y",
            "https://acme.bitrix24.ru/rest/download.json?token=x&",
            "https://acme.bitrix24.ru/rest/download.json?token=x&cmd[a]=user.get",
            "https://acme.bitrix24.ru/rest/download.json?%74oken=x",
            "https://acme.bitrix24.ru/rest/download.json?token=x#a",
            "https://acme.bitrix24.ru/rest/download.json?token=x y",
            "https://acme.bitrix24.ru/rest/download.json?token=x&auth=4f9a0166006e2b87",
            "https://acme.bitrix24.ru/rest/download.json?token=x&auth=",
            "https://acme.bitrix24.ru/rest/download.json?token=x&auth=b24proxy-0123456789ab&auth=b24proxy-0123456789ab",
            "https://acme.bitrix24.ru/rest/batch?token=x",
            "https://acme.bitrix24.ru/rest/Batch.json?token=x",
            "https://acme.bitrix24.ru/rest/crm.deal.get.xml?token=x",
            "https://acme.bitrix24.ru/rest/api/download?token=x",
            "https://acme.bitrix24.ru/rest/down%6coad?token=x",
            "https://acme.bitrix24.ru/rest/../rest/download?token=x",
            "https://acme.bitrix24.ru/rest//download?token=x",
            "https://acme.bitrix24.ru/rest/1/abcdef/download/?token=x",
            "https://acme.bitrix24.ru/rest/api/b24proxy-0123456789ab/download/?token=x",
            "https://acme.bitrix24.ru/download.json?token=x",
            "https://user@acme.bitrix24.ru/rest/download.json?token=x",
            "https://acme.bitrix24.ru@evil.example/rest/download.json?token=x",
            "ftp://acme.bitrix24.ru/rest/download.json?token=x",
        ] {
            assert!(refused(bad), "{bad}");
        }
    }

    #[test]
    fn a_token_is_seen_as_php_sees_it() {
        for query in ["token=x", "a=1&token", "%74oken=x", "token[]=x", "+token=x", "token%00a=x"] {
            assert!(holds_token(query.as_bytes()), "{query}");
        }
        for query in ["", "tokens=x", "a=token", "atoken=x", "token_id=5"] {
            assert!(!holds_token(query.as_bytes()), "{query}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_one_parameter_beside_auth(query in "(token|auth|=|&|x|%7C|b24proxy-0123456789ab|\\[\\]|cmd|#|\\+){0,9}") {
            if let Ok(address) = FileAddress::of_parts("download", false, &query) {
                let fields: Vec<_> = super::super::form::fields(query.as_bytes()).collect();
                prop_assert_eq!(fields.iter().filter(|(name, _)| name == "token").count(), 1);
                prop_assert!(fields.iter().all(|(name, _)| name == "token" || name == "auth"));
                prop_assert!(address.tail(None).is_some_and(|tail| tail.ends_with(&query)));
            }
        }

        #[test]
        fn no_address_panics(address in "\\PC{0,60}") {
            let _ = FileAddress::parse(&address);
            let _ = FileAddress::parse(&format!("https://acme.bitrix24.ru/rest/{address}"));
        }
    }
}
