//! `b24proxy refresh`: for cron, so that refresh tokens do not die unused.

use super::command::{Failure, Outcome, Setup};
use super::terminal::{say, say_in, Colour};
use crate::app::Job;
use crate::call::refresh::once::{refreshed, Why};
use crate::config::Portal;
use crate::store::records::{Installation, Tokens};
use crate::system::clock::Deadline;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// Leaves five months for a cron job that fails to be noticed.
const DEFAULT_DAYS: u32 = 30;
/// Longer than the refresher's own patience with the OAuth server.
const PATIENCE: Duration = Duration::from_secs(crate::call::refresh::spend::PATIENCE.as_secs() + 10);

const HELP: &str = "\
A refresh token dies when it is not used for 180 days, and then an administrator
must install again. Calls refresh by themselves; this is for portals that nobody
calls. It refreshes each portal whose refresh token was last renewed more than
DAYS ago (30 by default; 0: every portal), in the same way as a call does: never
twice at once, and not within five minutes of the last refresh. --force renews
all, at any time: to see whether it works, or because a token has become known.

In a crontab, once a week:

  17 4 * * 1  /home/USER/public_html/cgi-bin/b24proxy refresh

Exit status 1: a refresh failed, and the output says why.";

/// Renews tokens that were not renewed for long (for cron)
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Refresh {
    /// Within five minutes of the last refresh, too
    #[arg(long)]
    force: bool,
    /// Those renewed more than DAYS ago; 30, with --force 0
    #[arg(long, value_name = "DAYS", value_parser = days)]
    older_than: Option<u32>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Ending {
    Refreshed,
    /// Renewed recently enough.
    Fresh,
    NotInstalled,
    Webhook,
    Failed,
}

#[derive(Serialize)]
struct Report {
    portal: String,
    result: Ending,
    /// Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    renewed_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn days(text: &str) -> Result<u32, &'static str> {
    text.parse().ok().filter(|days| *days <= 180).ok_or("write a number of days from 0 to 180")
}

/// When the refresh token was issued, in Unix seconds; `None` = the file does not say.
pub fn renewed_at(tokens: &Tokens) -> Option<i64> {
    Some(tokens.refreshed_at.max(tokens.installed_at)).filter(|at| *at > 0)
}

/// Whether a refresh token is older than so many days. One of unknown age is.
fn is_old(renewed_at: Option<i64>, days: u32, now: i64) -> bool {
    renewed_at.is_none_or(|at| now.saturating_sub(at) >= i64::from(days) * 86_400)
}

impl Refresh {
    pub fn run(&self) -> Outcome {
        let setup = Setup::find(self.json)?;
        let days = self.older_than.unwrap_or(if self.force { 0 } else { DEFAULT_DAYS });
        let why = if self.force { Why::Ordered } else { Why::Due };
        let portals = setup.config().portals.iter();
        let reports: Vec<Report> = portals.map(|portal| refresh(setup.job(), portal, days, why)).collect();
        if self.json {
            say(&serde_json::to_string(&reports).expect("plain data serializes"));
        } else {
            reports.iter().for_each(|report| say_in(report.colour(), &report.text()));
        }
        match reports.iter().any(|report| report.result == Ending::Failed) {
            true => Err(Failure::Told),
            false => Ok(()),
        }
    }
}

fn refresh(job: Job, portal: &Portal, days: u32, why: Why) -> Report {
    let report = |result, renewed_at| Report { portal: portal.name.to_string(), result, renewed_at, error: None };
    let failed = |why: String| Report { error: Some(why), ..report(Ending::Failed, None) };
    if portal.application().is_none() {
        return report(Ending::Webhook, None);
    }
    let tokens = match job.app.store.read(&portal.name) {
        Ok(Installation::Installed(tokens)) => tokens,
        Ok(Installation::NotInstalled) => return report(Ending::NotInstalled, None),
        Ok(Installation::Broken(why)) | Err(why) => return failed(why),
    };
    if !is_old(renewed_at(&tokens), days, job.app.store.now()) {
        return report(Ending::Fresh, renewed_at(&tokens));
    }
    match refreshed(job, portal, &tokens, why, Deadline::after(PATIENCE)) {
        Ok(now) if now.access_token == tokens.access_token => report(Ending::Fresh, renewed_at(&now)),
        Ok(now) => report(Ending::Refreshed, renewed_at(&now)),
        Err(error) => failed(error.for_administrator()),
    }
}

impl Report {
    fn colour(&self) -> Colour {
        match self.result {
            Ending::Refreshed | Ending::Fresh | Ending::Webhook => Colour::Green,
            Ending::NotInstalled => Colour::Yellow,
            Ending::Failed => Colour::Red,
        }
    }

    fn text(&self) -> String {
        let what = match self.result {
            Ending::Refreshed => "refreshed".to_owned(),
            Ending::Fresh => match self.renewed_at {
                Some(at) => format!("not needed, renewed {}", crate::serve::status::moment(at)),
                None => "not needed".to_owned(),
            },
            Ending::NotInstalled => "not installed".to_owned(),
            Ending::Webhook => "a webhook, nothing to refresh".to_owned(),
            Ending::Failed => format!("FAILED: {}", self.error.as_deref().unwrap_or("")),
        };
        format!("{}: {what}", self.portal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_old_from_its_day_on_and_when_its_age_is_unknown() {
        let now = 100 * 86_400;
        assert!(!is_old(Some(now - 30 * 86_400 + 1), 30, now));
        assert!(is_old(Some(now - 30 * 86_400), 30, now));
        assert!(is_old(Some(now), 0, now));
        assert!(is_old(None, 30, now));
        assert!(!is_old(Some(now + 5), 1, now), "a clock set back");
    }
}
