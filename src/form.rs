//! Forms that browsers and Bitrix24's server post (`application/x-www-form-urlencoded`).

use crate::secret::Secret;

/// The fields under their names as posted: `auth[domain]` is a name. Of a name given twice PHP keeps the last.
pub struct Form(Vec<(String, String)>);

impl Form {
    pub fn parse(bytes: &[u8]) -> Form {
        Form(serde_urlencoded::from_bytes(bytes).unwrap_or_default())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The value, empty where there is none.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().rev().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn secret(&self, name: &str) -> Secret {
        Secret::new(self.text(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_have_the_names_that_were_posted_and_the_last_value() {
        let form = Form::parse(b"event=A&auth%5Bdomain%5D=acme.bitrix24.ru&event=B+C");
        assert_eq!(form.text("auth[domain]"), "acme.bitrix24.ru");
        assert_eq!(form.text("event"), "B C");
        assert!(!form.has("AUTH_ID"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Form::parse(&bytes);
        }
    }
}
