//! Whether a portal's tokens work now, by one call that needs no right, as the program's own: what `check` and `status` say.

use super::check::line::Line;
use super::command::Setup;
use crate::call::outcome::Failed;
use crate::call::refusal::said;
use crate::call::relay::profile;
use crate::config::Portal;
use crate::install::Person;
use crate::store::records::Installation;
use crate::values::error::{Error, Upstream};
use crate::values::grant::Refusal;

/// How a portal answered.
pub enum Tried {
    Works(Line),
    Fails {
        line: Line,
        /// The OAuth server, or the portal, did not answer.
        unreached: bool,
    },
}

impl Tried {
    pub fn line(self) -> Line {
        match self {
            Tried::Works(line) | Tried::Fails { line, .. } => line,
        }
    }
}

/// Calls `profile`; tokens that are due are renewed by it, as by any call.
pub fn tried(setup: &Setup, portal: &Portal) -> Tried {
    let name = portal.name.as_str();
    let called = profile(setup.job(), portal);
    // What is stored now: the call may have renewed it.
    let tokens = match setup.app.store.read(&portal.name) {
        Ok(Installation::Installed(tokens)) => Some(tokens),
        _ => None,
    };
    let install = setup.config().install_url(&portal.name).unwrap_or_else(|| format!("…/install?portal={name}"));
    let account = Account { install: &install, installer: tokens.as_ref().map(|tokens| tokens.user_id) };
    match called {
        Ok(reply) => Tried::Works(account.works(name, &Person::of_profile(&reply.body))),
        Err(failed) => {
            let last = setup.app.store.notes(&portal.name).refresh;
            let refusal = last.filter(|last| tokens.as_ref().is_some_and(|tokens| last.speaks_of(tokens)));
            let refusal = refusal.and_then(|last| last.failure);
            let unreached = is_unreached(&failed, refusal.as_ref());
            let mismatch = tokens.as_ref().zip(refusal.as_ref()).and_then(|(tokens, refusal)| {
                refusal.mismatch(&portal.asked_for_pair(&tokens.server_endpoint), &portal.name)
            });
            let (text, cure) = match (&failed, mismatch) {
                (Failed::Error(Error::OauthServer { .. } | Error::ReinstallRequired { .. }), Some((said, words))) => (
                    format!("the tokens cannot be renewed: {said}"),
                    format!("{words}; if that does not help, {}", account.install_again()),
                ),
                _ => account.fails(&failed, refusal.as_ref()),
            };
            Tried::Fails { line: Line::fail(name, text, cure), unreached }
        }
    }
}

fn is_unreached(failed: &Failed, refusal: Option<&Refusal>) -> bool {
    match failed {
        Failed::Error(Error::Unreachable { .. } | Error::Timeout { .. }) => true,
        Failed::Error(Error::OauthServer { .. }) => matches!(refusal, None | Some(Refusal::Unavailable { .. })),
        _ => false,
    }
}

/// Who has installed, and where that is done again.
struct Account<'a> {
    install: &'a str,
    /// `None`: a webhook, which belongs to whoever made it.
    installer: Option<u64>,
}

impl Account<'_> {
    fn works(&self, portal: &str, person: &Person) -> Line {
        let who = match person.name.as_str() {
            "" => format!("user {}", person.id),
            name => format!("{name} (user {})", person.id),
        };
        match (self.installer, person.administrator) {
            (None, _) => Line::ok(portal, format!("works, by an incoming webhook, as {who}")),
            (Some(_), true) if is_service(&person.name) => {
                Line::ok(portal, format!("works, as {who}, an administrator of the portal"))
            }
            (Some(_), true) => Line::ok(
                portal,
                format!(
                    "works, as {who}, an administrator of the portal; should that be a person's own account, calls end when \
                     the person leaves: an administrator made for this installs better"
                ),
            ),
            (Some(_), false) => Line::fail(
                portal,
                format!("works, but as {who}, who is no administrator of the portal any more: calls lack rights"),
                format!(
                    "make {who} an administrator in Bitrix24 again, or open {} in a browser as an administrator made for \
                     this",
                    self.install
                ),
            ),
        }
    }

    /// What is wrong and what mends it. `refusal`: the OAuth server's, where it has refused to renew the stored tokens.
    fn fails(&self, failed: &Failed, refusal: Option<&Refusal>) -> (String, String) {
        match (failed, refusal) {
            (Failed::Refused { upstream, .. }, _) => self.refused(upstream),
            (Failed::Error(Error::ReinstallRequired { why, .. }), _) => {
                (format!("the stored tokens are dead ({why})"), self.install_again())
            }
            (Failed::Error(Error::OauthServer { .. }), Some(Refusal::PaymentRequired { .. })) => self.unpaid(),
            (Failed::Error(Error::OauthServer { .. }), Some(Refusal::PortalDeleted)) => deleted(),
            (Failed::Error(Error::OauthServer { why, .. }), Some(Refusal::InvalidClient { .. })) => (
                format!("the tokens cannot be renewed: {why}"),
                "write client_id and client_secret into proxy.toml as the application's settings in Bitrix24 show them"
                    .into(),
            ),
            (Failed::Error(error), _) => (error.for_administrator(), String::new()),
        }
    }

    /// Bitrix24's own errors, to a call that needs no right.
    fn refused(&self, upstream: &Upstream) -> (String, String) {
        let said = said(upstream);
        match upstream.error.to_ascii_uppercase().as_str() {
            "ACCESS_DENIED" => (
                format!("the portal's plan has no REST, or its licence has expired ({said})"),
                "let the portal's administrator pay a plan with REST: calls work again then, nothing is to be changed here"
                    .into(),
            ),
            "PAYMENT_REQUIRED" => self.unpaid(),
            "PORTAL_DELETED" => deleted(),
            "APPLICATION_NOT_FOUND" => (
                format!("the application was removed in Bitrix24 ({said})"),
                format!(
                    "add it there again, write its client_id and client_secret into proxy.toml, then open {} in a browser",
                    self.install
                ),
            ),
            "USER_ACCESS_ERROR" | "AUTHORIZATION_ERROR" | "INVALID_CREDENTIALS" => {
                let who = self.installer.map_or("whose webhook it is".to_owned(), |id| format!("who installed, user {id},"));
                (format!("the one {who} was dismissed, or may not use the application any more ({said})"), self.install_again())
            }
            "OVERLOAD_LIMIT" => (
                format!("Bitrix24 has blocked the portal for all calls ({said})"),
                "write to Bitrix24's support, which alone lifts that".into(),
            ),
            "METHOD_CONFIRM_WAITING" | "METHOD_CONFIRM_DENIED" => (
                format!("an administrator of the portal has to allow the call ({said})"),
                "let an administrator allow it: the request is among Bitrix24's notifications".into(),
            ),
            "CONNECTION_ERROR" => {
                (format!("the portal cannot reach the OAuth server ({said})"), "try again in a few minutes".into())
            }
            _ => (format!("a call fails: Bitrix24 answers {said}"), String::new()),
        }
    }

    fn unpaid(&self) -> (String, String) {
        (
            "the application's trial or paid period is over, or it was removed in Bitrix24 (PAYMENT_REQUIRED)".into(),
            format!(
                "renew the licence in Bitrix24: calls work again then; where the application was removed, add it again, write \
                 its client_id and client_secret into proxy.toml, and open {} in a browser",
                self.install
            ),
        )
    }

    fn install_again(&self) -> String {
        match self.installer {
            Some(_) => {
                format!("open {} in a browser as an administrator of the portal, best one made for this", self.install)
            }
            None => "make a new incoming webhook in Bitrix24, and write its address into proxy.toml".into(),
        }
    }
}

fn deleted() -> (String, String) {
    (
        "the portal has been deleted (PORTAL_DELETED)".into(),
        "take its [portals.\"…\"] section out of proxy.toml, or let Bitrix24's support bring the portal back".into(),
    )
}

/// Whether an account's name is that of a program rather than of a person.
fn is_service(name: &str) -> bool {
    const WORDS: [&str; 16] = [
        "1c",
        "1с",
        "api",
        "b24proxy",
        "bot",
        "integration",
        "proxy",
        "rest",
        "robot",
        "service",
        "бот",
        "интеграция",
        "обмен",
        "робот",
        "сервис",
        "служебный",
    ];
    let name = name.to_lowercase();
    name.split(|c: char| !c.is_alphanumeric()).any(|word| WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::super::check::line::Status;
    use super::*;

    const INSTALL: &str = "https://www.acme.test/cgi-bin/b24proxy/install?portal=acme.bitrix24.ru";

    fn account(installer: Option<u64>) -> Account<'static> {
        Account { install: INSTALL, installer }
    }

    fn person(name: &str, administrator: bool) -> Person {
        Person { id: 7, name: name.into(), administrator }
    }

    #[test]
    fn who_works_is_told_with_what_may_end_it() {
        let works = |name: &str, administrator| account(Some(7)).works("acme", &person(name, administrator));
        let line = works("Anna Petrova", true);
        assert!(line.status == Status::Ok && line.text.contains("Anna Petrova (user 7)"), "{line:?}");
        assert!(line.text.contains("person's own account"), "{line:?}");
        for name in ["1C", "Обмен с 1С", "Service", "b24proxy bot"] {
            assert!(!works(name, true).text.contains("person's own"), "{name}");
        }
        let line = works("Anna Petrova", false);
        assert!(line.status == Status::Fail && line.cure.contains(INSTALL), "{line:?}");
        let line = account(None).works("acme", &person("", false));
        assert!(line.status == Status::Ok && line.text.ends_with("as user 7"), "{line:?}");
    }

    #[test]
    fn each_refusal_leads_to_what_mends_it() {
        let refused = |error: &str| {
            let upstream = Upstream { status: 403, error: error.into(), ..Upstream::default() };
            account(Some(7)).refused(&upstream)
        };
        for (error, text, cure) in [
            ("ACCESS_DENIED", "licence has expired", "pay a plan with REST"),
            ("PAYMENT_REQUIRED", "paid period is over", INSTALL),
            ("PORTAL_DELETED", "deleted", "[portals."),
            ("APPLICATION_NOT_FOUND", "removed", "client_secret"),
            ("user_access_error", "user 7, was dismissed", INSTALL),
            ("authorization_error", "user 7, was dismissed", INSTALL),
            ("OVERLOAD_LIMIT", "blocked", "support"),
            ("CONNECTION_ERROR", "cannot reach", "again"),
            ("SOMETHING_NEW", "SOMETHING_NEW", ""),
        ] {
            let told = refused(error);
            assert!(told.0.contains(text) && told.1.contains(cure), "{error}: {told:?}");
        }
        let dead = Error::ReinstallRequired { why: "invalid_grant".into(), install_url: None };
        let told = account(Some(7)).fails(&Failed::Error(dead), None);
        assert!(told.0.contains("dead (invalid_grant)") && told.1.starts_with(&format!("open {INSTALL}")), "{told:?}");
        let unpaid = Error::OauthServer { why: "…".into(), retry_after: None };
        let refusal = Refusal::PaymentRequired { description: String::new() };
        assert!(account(Some(7)).fails(&Failed::Error(unpaid), Some(&refusal)).0.contains("PAYMENT_REQUIRED"));
    }
}
