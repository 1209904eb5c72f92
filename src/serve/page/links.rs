//! Addresses of this program that its pages lead to.

use super::language::Language;

/// Below the program's own address; where not even that is known, a page leads nowhere but to itself.
pub struct Links(Option<String>);

impl Links {
    pub fn at(base: Option<String>) -> Links {
        Links(base)
    }

    pub fn base(&self) -> Option<&str> {
        self.0.as_deref()
    }

    pub fn front(&self) -> Option<String> {
        self.0.clone()
    }

    pub fn status(&self) -> Option<String> {
        Some(format!("{}/status", self.0.as_deref()?))
    }

    /// Where an installation begins: of this portal, or with a field for its address.
    pub fn install(&self, portal: Option<&str>) -> Option<String> {
        let base = self.0.as_deref()?;
        Some(match portal {
            Some(portal) => format!("{base}/install?portal={portal}"),
            None => format!("{base}/install"),
        })
    }

    /// The page of a finished installation. `language`: where the address asked for one.
    pub fn installed(&self, receipt: &str, language: Option<Language>) -> String {
        let language = language.map(|language| format!("&LANG={}", language.code())).unwrap_or_default();
        format!("{}?installed={receipt}{language}", self.0.as_deref().unwrap_or(""))
    }

    /// The same, which tries a call first.
    pub fn trial(&self, receipt: &str, language: Option<Language>) -> String {
        format!("{}&try=1", self.installed(receipt, language))
    }
}
