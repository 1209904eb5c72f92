//! Addresses of files, signed by the portal: `CRestUtil::getSpecialUrl` and what checks it.

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;
use ring::hmac;

use crate::entities::Kind;
use crate::methods::Caller;
use crate::params::{encode_pairs, parse_query};
use crate::php::{Array, Php};
use crate::random;
use crate::state::PortalState;

const DELIMITER: &str = "|";

/// The only key of what stands in a record for a file: its ID.
pub(crate) const FILE: &str = "sim.file";

/// Makes the addresses in one caller's answers, and checks those that it asks.
pub(crate) struct Signer {
    /// `https://127.0.0.1:41002`
    portal: String,
    secret: String,
    /// What a caller's own parameters say of who it is: stands in its addresses, and is signed. A token in the header is not
    /// among them, so that its addresses have none and outlive it.
    auth: Vec<(String, String)>,
    webhook: Option<(u32, String)>,
    /// `json` or `xml`
    transport: &'static str,
}

impl Signer {
    pub(crate) fn of(portal: &PortalState, caller: &Caller) -> Signer {
        Signer {
            portal: portal.url(),
            secret: portal.signing_secret.clone(),
            auth: caller.auth.clone(),
            webhook: caller.webhook.clone(),
            transport: if caller.xml { "xml" } else { "json" },
        }
    }

    pub(crate) fn address(&self, scope: &str, method: &str, query: &[(&str, String)]) -> String {
        let mut query = query.to_vec();
        query.push(("_", random::hex(32)));
        let payload = BASE64.encode(encode_pairs(&query));
        let signature = self.signature(scope, method, &payload);
        let token = [scope, &payload, &signature].join(DELIMITER);
        match &self.webhook {
            Some((user, code)) => {
                let query = encode_pairs(&[("token", token)]);
                format!("{}/rest/{user}/{code}/{method}/?{query}", self.portal)
            }
            None => {
                let mut pairs = self.auth.clone();
                pairs.push(("token".to_owned(), token));
                format!("{}/rest/{method}.{}?{}", self.portal, self.transport, encode_pairs(&pairs))
            }
        }
    }

    /// What a token says, where it was signed for this method and these credentials.
    pub(crate) fn read(&self, method: &str, token: &str) -> Option<Array> {
        let mut parts = token.split(DELIMITER);
        let (scope, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if signature != self.signature(scope, method, payload) {
            return None;
        }
        let mut query = parse_query(&BASE64.decode(payload).ok()?);
        query.remove("_");
        Some(query)
    }

    /// What is signed, in base64, and behind a dot its HMAC: the credentials among what is signed can be read in it.
    fn signature(&self, scope: &str, method: &str, payload: &str) -> String {
        let auth: Vec<String> = match &self.webhook {
            Some((user, code)) => vec![user.to_string(), code.clone()],
            None => self.auth.iter().map(|(_, value)| value.clone()).collect(),
        };
        let state = [&method.to_lowercase(), scope, payload, &auth.join(DELIMITER)].join(DELIMITER);
        let signed = BASE64.encode(Php::Str(state).encode());
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        format!("{signed}.{}", BASE64.encode(hmac::sign(&key, signed.as_bytes())))
    }

    /// A record as it is answered, with its files' addresses.
    pub(crate) fn with_files(&self, kind: &Kind, entity_type: &str, id: i64, row: Php) -> Php {
        let Php::Array(fields) = row else { return row };
        let mut shown = Array::new();
        for (key, value) in fields.iter() {
            let field = key.to_string();
            let show = |file: i64| self.file(kind, entity_type, id, &field, file);
            shown.set(key.clone(), in_place_of_files(value, &show));
        }
        shown.into()
    }

    fn file(&self, kind: &Kind, entity_type: &str, id: i64, field: &str, file: i64) -> Php {
        let (id, number) = (id.to_string(), file.to_string());
        match kind.prefix {
            "crm.item" => {
                let query = [
                    ("action", "crm.controller.item.getFile".to_owned()),
                    ("SITE_ID", "s1".to_owned()),
                    ("entityTypeId", entity_type.to_owned()),
                    ("id", id),
                    ("fieldName", field.to_owned()),
                    ("fileId", number),
                ];
                let page = format!("{}/bitrix/services/main/ajax.php?{}", self.portal, encode_pairs(&query));
                let machine = self.address("crm", "crm.controller.item.getFile", &query);
                Array::new().with("id", file).with("url", page).with("urlMachine", machine).into()
            }
            "catalog.product" => {
                let query = [
                    ("fields[fieldName]", field.to_owned()),
                    ("fields[fileId]", number.clone()),
                    ("fields[productId]", id),
                ];
                let page = format!("/rest/catalog.product.download?{}", encode_pairs(&query));
                let machine = self.address("catalog", "catalog.product.download", &query);
                Array::new().with("id", number).with("url", page).with("urlMachine", machine).into()
            }
            // For a browser with a session.
            prefix => {
                let auth = self.auth.first().map(|(_, value)| value.clone()).unwrap_or_default();
                let page = format!("/bitrix/components/bitrix/{prefix}.show/show_file.php");
                let query =
                    encode_pairs(&[("ownerId", &*id), ("fieldName", field), ("dynamic", "Y"), ("fileId", &*number)]);
                let download = format!("{page}?{}&{query}", encode_pairs(&[("auth", auth)]));
                Array::new()
                    .with("id", file)
                    .with("showUrl", format!("{page}?{query}"))
                    .with("downloadUrl", download)
                    .into()
            }
        }
    }
}

fn in_place_of_files(value: &Php, show: &dyn Fn(i64) -> Php) -> Php {
    let Php::Array(array) = value else { return value.clone() };
    if let Some(file) = array.get(FILE).and_then(Php::to_int) {
        return show(file);
    }
    let mut shown = Array::new();
    array.iter().for_each(|(key, value)| shown.set(key.clone(), in_place_of_files(value, show)));
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(auth: &[(&str, &str)]) -> Signer {
        let auth = auth.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Signer { portal: "https://p".to_owned(), secret: "s".to_owned(), auth, webhook: None, transport: "json" }
    }

    /// The shape of an address in the documentation: credentials, payload, what is signed, its HMAC.
    #[test]
    fn an_address_has_the_shape_of_bitrix24s() {
        let address = signer(&[("auth", "T")]).address("disk", "download", &[("id", "10".to_owned())]);
        let token = address.strip_prefix("https://p/rest/download.json?auth=T&token=disk%7C").expect("a start");
        let (payload, signature) = token.split_once("%7C").expect("a delimiter");
        let (signed, hmac) = signature.split_once('.').expect("a dot");
        let decoded = |text: &str| {
            let text = text.replace("%3D", "=").replace("%2F", "/").replace("%2B", "+");
            BASE64.decode(text).expect("base64")
        };
        let text = |text: &str| String::from_utf8(decoded(text)).expect("UTF-8");
        assert!(text(payload).starts_with("id=10&_="));
        assert!(text(signed).starts_with("\"download|disk|") && text(signed).ends_with("|T\""), "{}", text(signed));
        assert_eq!(decoded(hmac).len(), 32);
    }

    #[test]
    fn a_token_is_good_for_its_method_and_credentials() {
        let query = [("id", "10".to_owned())];
        let token_of = |signer: &Signer| {
            let address = signer.address("disk", "download", &query);
            let query = parse_query(address.split_once('?').expect("a query").1.as_bytes());
            query.get("token").expect("a token").to_text()
        };
        let (with, without) = (signer(&[("auth", "T")]), signer(&[]));
        let token = token_of(&with);
        assert_eq!(with.read("DOWNLOAD", &token).map(|q| Php::Array(q).encode()), Some(r#"{"id":"10"}"#.to_owned()));
        assert!(with.read("upload", &token).is_none());
        assert!(without.read("download", &token).is_none());
        assert!(signer(&[("auth", "U")]).read("download", &token).is_none());
        assert!(with.read("download", &token.replace("disk|", "crm|")).is_none());
        assert!(with.read("download", &token_of(&without)).is_none());
        assert!(without.read("download", &token_of(&without)).is_some());
        assert!(without.read("download", "disk|x").is_none());
    }
}
