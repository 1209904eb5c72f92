//! `b24proxy import FILE`: tokens that a PHP proxy holds.
//!
//! 1. What is stored already is asked for by a call: tokens that work are never replaced.
//! 2. The file's access token is tried at the portal, where it has not expired.
//! 3. Under the lock, if nothing has changed since: stored.
//! 4. An expired access token is refreshed by the first call, as always; where Bitrix24 refuses that, what was stored
//!    before is put back.

use super::command::{Failure, Outcome, Setup};
use super::owner;
use super::terminal::say;
use crate::call::outcome::Failed;
use crate::call::relay::{call_with, profile, stored_address};
use crate::call::secrets;
use crate::config::{Application, Config, Portal};
use crate::store::records::{Installation, Tokens};
use crate::store::Replaced;
use crate::system::clock::{unix_now, Deadline};
use crate::values::error::Error;
use crate::values::json::{number_of, number_or_text};
use crate::values::portal::split_address;
use crate::values::secret::Secret;
use crate::values::verdict::{judge, Verdict};
use anyhow::{anyhow, Context};
use clap::{Args, ValueHint};
use serde::Deserialize;
use std::io::Read;
use std::time::UNIX_EPOCH;

const HELP: &str = "\
Reads a file that holds Bitrix24's token answer as JSON, as PHP proxies keep it,
or CRest's settings.json: access_token, refresh_token, expires_in,
client_endpoint or domain. The portal must be in proxy.toml, with the client_id
and client_secret that the PHP proxy used. \"-\" reads standard input.

The tokens are tried with a call. Tokens that are stored already and work are
not replaced, nor those of another Bitrix24. A refresh token works once: stop
the PHP proxy before, for the two would take each other's tokens away. Its
application_token is not taken over.

  b24proxy import /home/USER/public_html/crest/settings.json";

/// Takes over the tokens of a PHP proxy or of CRest
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Import {
    /// With Bitrix24's token answer; "-" reads standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: String,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Real ones are below 2 KiB.
const MAX_FILE: u64 = 64 << 10;
const NO_ADDRESS: &str = "client_endpoint in the file is not an address such as https://acme.bitrix24.ru/rest/";

/// What the file says.
#[derive(Deserialize)]
struct Written {
    access_token: Secret,
    refresh_token: Secret,
    #[serde(default, deserialize_with = "number_or_text")]
    expires_in: u64,
    /// Unix seconds; newer answers have it.
    #[serde(default, deserialize_with = "number_or_text")]
    expires: u64,
    #[serde(default)]
    client_endpoint: String,
    #[serde(default)]
    server_endpoint: String,
    /// CRest: the portal. Bitrix24's own answer: the OAuth server.
    #[serde(default)]
    domain: String,
    #[serde(default)]
    member_id: String,
    #[serde(default)]
    scope: String,
    #[serde(default, deserialize_with = "number_or_text")]
    user_id: u64,
}

impl Written {
    fn parse(bytes: &[u8]) -> Result<Written, String> {
        let text = crate::values::json::text(bytes).map_err(|why| why.replace("the body", "the file"))?;
        if !text.trim_start().starts_with('{') {
            return Err("the file is not a JSON object".into());
        }
        // serde_json quotes values in its messages.
        let written: Written = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data if error.to_string().starts_with("missing field") => {
                "the file has no access_token or no refresh_token".to_owned()
            }
            _ => format!("the file cannot be read as tokens from line {} column {} on", error.line(), error.column()),
        })?;
        match written.access_token.is_empty() || written.refresh_token.is_empty() {
            true => Err("a token in the file is empty".into()),
            false => Ok(written),
        }
    }

    /// The portal's REST address.
    fn address(&self) -> Result<String, String> {
        if !self.client_endpoint.is_empty() {
            return Ok(self.client_endpoint.clone());
        }
        match self.domain.as_str() {
            "" => Err("the file does not say which portal it is of: client_endpoint is missing".into()),
            domain if domain.starts_with("oauth.") => {
                Err("the file has no client_endpoint, the portal's address".into())
            }
            domain => Ok(format!("https://{domain}/rest/")),
        }
    }

    /// Unix seconds; counted from when the file was written where it does not say.
    fn expires_at(&self, written_at: i64) -> i64 {
        match i64::try_from(self.expires) {
            Ok(at) if at > 0 => at,
            _ => written_at.saturating_add(i64::try_from(self.expires_in.min(86_400)).unwrap_or(0)),
        }
    }
}

impl Import {
    pub fn run(&self) -> Outcome {
        let setup = Setup::find(self.json)?;
        let config = setup.config();
        let (bytes, written_at) = read(&self.file)?;
        let written = Written::parse(&bytes)?;
        let address = written.address()?;
        let portal = configured(config, &address)?;
        let application = portal.application().context("this portal is used through a webhook, without tokens")?;
        let tokens = Tokens {
            expires_at: written.expires_at(written_at),
            member_id: written.member_id,
            domain: portal.asked_for_pair(&written.server_endpoint).server.host().to_owned(),
            client_endpoint: portal
                .endpoint(&address, config.bitrix24.allow_http)
                .map_err(refused)?
                .to_client_endpoint(),
            server_endpoint: written.server_endpoint,
            access_token: written.access_token,
            refresh_token: written.refresh_token,
            scope: written.scope,
            user_id: written.user_id,
            user_name: String::new(),
            application_token: Secret::default(),
            client_id: application.client_id.clone(),
            installed_at: written_at,
            refreshed_at: 0,
            renamed_from: String::new(),
            events_key: Secret::default(),
        };
        let user_id = Takeover { setup: &setup, portal, application }.run(tokens)?;
        if self.json {
            say(&serde_json::json!({ "portal": portal.name.as_str(), "user_id": user_id }).to_string());
        } else {
            say(&format!(
                "imported: the tokens of {} work, as user {user_id}. Do not let the PHP proxy use them any more.",
                portal.name
            ));
        }
        Ok(())
    }
}

/// The file's bytes, and when it was written, in Unix seconds.
fn read(name: &str) -> Result<(Vec<u8>, i64), Failure> {
    let failed = || format!("{name} cannot be read");
    let file = owner::open(name).with_context(failed)?;
    let modified = file.metadata().and_then(|metadata| metadata.modified()).with_context(failed)?;
    let age = modified.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok());
    let written_at = age.unwrap_or(i64::MAX).min(unix_now());
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(failed)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(Failure::Wrong(anyhow!("{name} is too large to be a file of tokens"))),
        false => Ok((bytes, written_at)),
    }
}

fn configured<'c>(config: &'c Config, address: &str) -> anyhow::Result<&'c Portal> {
    let (_, name, _) = split_address(address).context(NO_ADDRESS)?;
    config.portal_of(&name).with_context(|| {
        format!(
            "the file is of the portal {name}, which is not configured: write [portals.\"{name}\"] into {}",
            config.path.display()
        )
    })
}

fn refused(refused: crate::values::portal::Refused) -> String {
    match refused {
        crate::values::portal::Refused::PlainHttp => format!("the portal's address {refused}"),
        _ => NO_ADDRESS.into(),
    }
}

/// What Bitrix24 thinks of tokens.
enum Opinion {
    /// They work, for this user.
    Work(u64),
    Refused(String),
}

struct Takeover<'a> {
    setup: &'a Setup,
    portal: &'a Portal,
    application: &'a Application,
}

impl Takeover<'_> {
    /// The user whose tokens they are.
    fn run(&self, mut tokens: Tokens) -> Result<u64, Failure> {
        let before = self.stored()?;
        if let Some(before) = &before {
            self.refuse_to_replace(before, &tokens)?;
            // As at an installation, what ties the portal to its Bitrix24 stays.
            tokens.application_token = before.application_token.clone();
            tokens.events_key = before.events_key.clone();
            if tokens.member_id.is_empty() {
                tokens.member_id = before.member_id.clone();
            }
        }
        let tried = match tokens.expires_at > self.setup.app.store.now() {
            true => Some(self.try_access_token(&tokens)?),
            false => None,
        };
        tokens.user_id = tried.unwrap_or(tokens.user_id);
        self.write(&tokens, before.as_ref())?;
        if let Some(user) = tried {
            return Ok(user);
        }
        let opinion = self.call_with_stored().map_err(|failure| match failure {
            Failure::Wrong(why) => Failure::Wrong(anyhow!(
                "the tokens are stored, but whether they work is not known yet; try: b24proxy call {} profile ({why:#})",
                self.portal.name
            )),
            other => other,
        });
        match opinion? {
            Opinion::Work(user) => Ok(user),
            Opinion::Refused(why) => {
                self.take_back(&tokens, before.as_ref())?;
                Err(Failure::Wrong(anyhow!(
                    "Bitrix24 does not accept the tokens in this file, nothing is imported: {why}"
                )))
            }
        }
    }

    fn stored(&self) -> Result<Option<Tokens>, String> {
        match self.setup.app.store.read(&self.portal.name)? {
            Installation::NotInstalled => Ok(None),
            Installation::Installed(tokens) => Ok(Some(*tokens)),
            Installation::Broken(why) => Err(why),
        }
    }

    fn refuse_to_replace(&self, before: &Tokens, tokens: &Tokens) -> Result<(), Failure> {
        let file = self.setup.app.store.place(&self.portal.name).full;
        if !before.member_id.is_empty() && !tokens.member_id.is_empty() && before.member_id != tokens.member_id {
            return Err(Failure::Wrong(anyhow!(
                "the stored tokens of {} are of another Bitrix24 (member_id): nothing is imported. To replace them all \
                 the same, move {file} away first",
                self.portal.name
            )));
        }
        match self.call_with_stored()? {
            Opinion::Refused(_) => Ok(()),
            Opinion::Work(_) => Err(Failure::Wrong(anyhow!(
                "the tokens of {} that are stored already work: nothing is imported. To replace them all the same, move \
                 {file} away first",
                self.portal.name
            ))),
        }
    }

    /// `app.info`, with the token of the file: that it works, and that it is this application's.
    fn try_access_token(&self, tokens: &Tokens) -> Result<u64, Failure> {
        let endpoint = stored_address(self.setup.config(), self.portal, tokens)?;
        let unreachable =
            |why: &str| format!("the tokens cannot be tried, nothing is imported: {} {why}", self.portal.name);
        let http = self.setup.app.http.portals().map_err(|failure| unreachable(&failure.text()))?;
        let mut hide = secrets::of_portal(&self.setup.app, self.portal);
        secrets::add(&mut hide, tokens);
        let mut answers = Vec::new();
        for method in ["app.info", "profile"] {
            let deadline = Deadline::after(self.setup.config().bitrix24.timeout);
            let reply = call_with(http, &endpoint, &tokens.access_token, method, deadline, hide.clone())
                .map_err(|failure| unreachable(&failure.text()))?;
            match judge(&reply.answered()).0 {
                Verdict::Success => {}
                Verdict::Error(upstream) => {
                    let why = Error::Bitrix24(upstream).text();
                    return Err(Failure::Wrong(anyhow!(
                        "the tokens in this file do not work, nothing is imported. {why}"
                    )));
                }
                Verdict::Moved => return Err(unreachable("has moved to another address").into()),
                Verdict::Foreign(foreign) => {
                    return Err(unreachable(&hide.text(&format!("answered with {}", foreign.what))).into())
                }
            }
            let answer: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            answers.push(answer["result"].clone());
        }
        // A local application's CODE is its client_id; a refresh with another key pair would fail.
        let code = answers[0]["CODE"].as_str().unwrap_or("");
        if code.starts_with("local.") && code != self.application.client_id {
            return Err(Failure::Wrong(anyhow!(
                "the tokens are of another application: put the client_id and client_secret that the PHP proxy used into \
                 proxy.toml, or install anew (b24proxy install-url)"
            )));
        }
        Ok(number_of(&answers[1]["ID"]).unwrap_or(tokens.user_id))
    }

    /// Stores the pair, if what is stored is still what was looked at.
    fn write(&self, tokens: &Tokens, before: Option<&Tokens>) -> Result<(), Failure> {
        let deadline = Deadline::after(self.setup.config().limits.max_wait);
        let lock = self.setup.app.store.lock(&self.portal.name, deadline)?;
        let lock = lock.context("another process is renewing this portal's tokens: try again in a minute")?;
        let replaced = lock.reserve()?.replace(before.map(Tokens::fingerprint).as_deref(), tokens)?;
        match replaced {
            Replaced::Yes => Ok(()),
            Replaced::OtherIsStored => {
                Err(Failure::Wrong(anyhow!("other tokens were stored meanwhile: nothing is imported")))
            }
        }
    }

    /// `profile` with the stored tokens, refreshed if need be. An answer that tells nothing of the tokens is an error.
    fn call_with_stored(&self) -> Result<Opinion, Failure> {
        match profile(self.setup.job(), self.portal) {
            Ok(reply) => {
                let answer: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                Ok(Opinion::Work(number_of(&answer["result"]["ID"]).unwrap_or(0)))
            }
            Err(Failed::Refused { upstream, .. }) if upstream.status == 401 => {
                Ok(Opinion::Refused(Error::Bitrix24(upstream).text()))
            }
            Err(Failed::Error(Error::ReinstallRequired { why, .. })) => Ok(Opinion::Refused(why)),
            Err(failed) => Err(Error::from(failed).into()),
        }
    }

    /// Puts back what was stored before; where nothing was, moves aside what was just stored.
    fn take_back(&self, tokens: &Tokens, before: Option<&Tokens>) -> Result<(), Failure> {
        let deadline = Deadline::after(self.setup.config().limits.max_wait);
        let Some(lock) = self.setup.app.store.lock(&self.portal.name, deadline)? else { return Ok(()) };
        // What somebody stored meanwhile stays.
        let _ = match before {
            Some(before) => lock.reserve()?.replace(Some(&tokens.fingerprint()), before)?,
            None => lock.set_aside(&tokens.fingerprint())?,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crests_file_and_bitrix24s_own_answer_are_both_read() {
        let crest = br#"{"access_token":"a","expires_in":"3600","application_token":"t","refresh_token":"r",
            "domain":"acme.bitrix24.ru","client_endpoint":"https:\/\/acme.bitrix24.ru\/rest\/"}"#;
        let written = Written::parse(crest).unwrap();
        assert_eq!(written.address().unwrap(), "https://acme.bitrix24.ru/rest/");
        assert_eq!(written.expires_at(1000), 4600);
        let own = br#"{"access_token":"a","refresh_token":"r","expires":5000,"expires_in":3600,
            "domain":"oauth.bitrix.info","member_id":"m","user_id":1}"#;
        let written = Written::parse(own).unwrap();
        assert_eq!(written.expires_at(1000), 5000);
        assert!(written.address().unwrap_err().contains("client_endpoint"));
        let old = br#"{"access_token":"a","refresh_token":"r","domain":"acme.bitrix24.ru"}"#;
        assert_eq!(Written::parse(old).unwrap().address().unwrap(), "https://acme.bitrix24.ru/rest/");
    }

    #[test]
    fn what_is_not_a_file_of_tokens_is_refused_without_showing_it() {
        for bad in
            ["", "[]", "{\"access_token\":\"secret\"}", "{\"access_token\":\"secret\",\"refresh_token\":[\"secret\"]}"]
        {
            let why = Written::parse(bad.as_bytes()).map(|_| ()).unwrap_err();
            assert!(!why.contains("secret\""), "{why}");
        }
    }
}
