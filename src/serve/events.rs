//! `{"domain","events":{…}}`: what Bitrix24 reported, and which events it posts here.

use super::context::{shown, Serving, Trace};
use crate::app::App;
use crate::call::events::Address;
use crate::call::outcome::Failed;
use crate::call::relay::Patience;
use crate::call::secrets;
use crate::config::{Client, Portal};
use crate::store::records::Event;
use crate::store::{Events, Wish};
use crate::system::clock::Deadline;
use crate::system::wait::pause;
use crate::values::answer::Answer;
use crate::values::error::{Error, Result};
use crate::values::event::{Audible, EventName};
use crate::values::json;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::time::Duration;

/// Where nobody says how many.
const USUAL: usize = 100;
const MOST: usize = 1000;

/// What is asked of a portal's events.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Those { after: u64, most: usize, wait: Duration },
    Bind(Vec<EventName>),
    Unbind(Vec<EventName>),
    Bound,
}

impl Asked {
    /// From `events`. The error says what is wrong with it.
    pub fn parse(raw: &str) -> std::result::Result<Asked, String> {
        const NUMBERS: [&str; 3] = ["after", "most", "wait"];
        let (mut numbers, mut other) = ([None; NUMBERS.len()], None);
        for entry in json::entries(raw) {
            let (key, value) = entry.map_err(|_| "must be an object".to_owned())?;
            let is_there_twice = match (NUMBERS.iter().position(|name| *name == key), key.as_ref()) {
                (Some(at), _) => {
                    let number =
                        serde_json::from_str::<u64>(value).map_err(|_| format!("{key:?} must be a whole number"))?;
                    numbers[at].replace(number).is_some()
                }
                (None, "bind") => other.replace(Asked::Bind(names(&key, value)?)).is_some(),
                (None, "unbind") => other.replace(Asked::Unbind(names(&key, value)?)).is_some(),
                (None, "bound") if value == "true" => other.replace(Asked::Bound).is_some(),
                (None, "bound") => return Err("\"bound\" must be true".into()),
                _ => {
                    return Err(format!(
                        "has a field {}; those of events are after, most, wait, or one of bind, unbind and bound",
                        shown(&key)
                    ))
                }
            };
            if is_there_twice {
                return Err("can have one of its fields, and one of bind, unbind and bound, once".into());
            }
        }
        match (other, numbers) {
            (Some(other), [None, None, None]) => Ok(other),
            (Some(_), _) => {
                Err("cannot read and register in one request: send after, most and wait by themselves".into())
            }
            (None, [after, most, wait]) => {
                let most = most
                    .map_or(Some(USUAL), |most| usize::try_from(most).ok().filter(|most| (1..=MOST).contains(most)));
                Ok(Asked::Those {
                    after: after.unwrap_or(0),
                    most: most.ok_or_else(|| format!("\"most\" must be a number from 1 to {MOST}"))?,
                    wait: Duration::from_secs(wait.unwrap_or(0)),
                })
            }
        }
    }
}

fn names(key: &str, raw: &str) -> std::result::Result<Vec<EventName>, String> {
    let wrong = || format!("{key:?} must be a list of events' names, such as [\"ONCRMDEALADD\"]");
    let list: Vec<String> = serde_json::from_str(raw).map_err(|_| wrong())?;
    let names: Option<Vec<EventName>> = list.iter().map(|text| EventName::parse(text)).collect();
    names.filter(|names| !names.is_empty()).ok_or_else(wrong)
}

impl Serving<'_> {
    pub(super) fn events(
        &self,
        app: &App,
        client: &Client,
        portal: &Portal,
        asked: &Asked,
        trace: &mut Trace,
    ) -> Result<Answer> {
        trace.method = Some("events".to_owned());
        if self.idempotency_key()?.is_some() {
            return Err(Error::InvalidRequest("an Idempotency-Key has no meaning for events".into()));
        }
        client.check_events(asked)?;
        if let Asked::Those { after, most, wait } = asked {
            let until = self.deadline(&app.config).at_most((*wait).min(app.config.limits.max_wait));
            let is_wanted = |name: &str| client.events.holds(name);
            let found = awaited(app, portal, Wish { after: *after, most: *most, is_wanted: &is_wanted }, until)?;
            let text = serde_json::to_vec(&given(&found)?).expect("plain data serializes");
            return Ok(Answer::success(vec![secrets::of_portal(app, portal).bytes(text)]));
        }
        let bound = trace.noted_failure(self.registered(app, client, portal, asked))?;
        let text = serde_json::to_vec(&serde_json::json!({ "bound": bound })).expect("plain data serializes");
        Ok(Answer::success(vec![text]))
    }

    /// The names of all that Bitrix24 posts here then.
    fn registered(
        &self,
        app: &App,
        client: &Client,
        portal: &Portal,
        asked: &Asked,
    ) -> std::result::Result<BTreeSet<String>, Failed> {
        let job = self.job(app).of_client(&client.name);
        let patience = Patience::Until(job.end.at_most(app.config.limits.max_wait));
        let address = Address::of(job, portal, patience)?;
        match asked {
            Asked::Bind(names) => names.iter().try_for_each(|name| address.bind(name))?,
            Asked::Unbind(names) => names.iter().try_for_each(|name| address.unbind(name))?,
            Asked::Bound | Asked::Those { .. } => {}
        }
        address.bound()
    }
}

/// What there is, or what comes until then. Where too many requests wait already, what there is now.
fn awaited(app: &App, portal: &Portal, wish: Wish, until: Deadline) -> Result<Events> {
    let (mut wish, mut lost) = (wish, 0);
    loop {
        let found = app.store.events(&portal.name, &wish, &app.config.events).map_err(Error::Storage)?;
        lost += found.lost;
        if !found.events.is_empty() || lost > 0 || !comes(app, portal, found.last, until)? {
            return Ok(Events { lost, ..found });
        }
        wish.after = found.last;
    }
}

/// Waits until there is an event behind this number; whether one has come.
fn comes(app: &App, portal: &Portal, last: u64, until: Deadline) -> Result<bool> {
    while !until.has_passed() {
        app.store.rest();
        if pause(app.store.event_poll().min(until.remaining())).is_err() {
            return Ok(false);
        }
        if app.store.last_event(&portal.name).map_err(Error::Storage)? > last {
            return Ok(true);
        }
    }
    Ok(false)
}

/// As a caller gets them.
pub fn given(found: &Events) -> Result<impl serde::Serialize + '_> {
    #[derive(serde::Serialize)]
    struct Given<'e> {
        events: Vec<One<'e>>,
        last: u64,
        lost: u64,
    }
    let events = found.events.iter().map(One::of).collect::<Result<_>>()?;
    Ok(Given { events, last: found.last, lost: found.lost })
}

/// An event as a caller gets it.
#[derive(serde::Serialize)]
pub struct One<'e> {
    number: u64,
    event: &'e str,
    data: &'e RawValue,
    /// Unix seconds.
    at: i64,
}

impl One<'_> {
    pub fn of(event: &Event) -> Result<One<'_>> {
        let data = serde_json::from_str(&event.data);
        let data = data.map_err(|_| Error::Storage(format!("the event {} is damaged", event.number)))?;
        Ok(One { number: event.number, event: &event.name, data, at: event.at_ms.div_euclid(1000) })
    }
}

impl Client {
    /// Whether it may do that.
    fn check_events(&self, asked: &Asked) -> Result<()> {
        let refused = |what: String| Err(Error::Forbidden(format!("The client {:?} may not {what}", self.name)));
        match asked {
            _ if self.events.is_nothing() => {
                refused("see events: write events = [\"ONCRM*\"], or the like, for it into proxy.toml.".into())
            }
            Asked::Unbind(_) if self.methods.is_some() || self.events != Audible::All => {
                refused("unbind events: only one without events and methods in proxy.toml may.".into())
            }
            Asked::Bind(names) => match names.iter().find(|name| !self.events.holds(name.as_str())) {
                Some(name) => {
                    let name = name.canonical();
                    refused(format!("register {name}: add it to the client's events in proxy.toml."))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_events_is_read_and_what_is_wrong_is_named() {
        let those = |after, most, wait| Ok(Asked::Those { after, most, wait: Duration::from_secs(wait) });
        assert_eq!(Asked::parse("{}"), those(0, 100, 0));
        assert_eq!(Asked::parse(r#"{"after":7,"most":1000,"wait":20}"#), those(7, 1000, 20));
        let name = |text| EventName::parse(text).unwrap();
        assert_eq!(Asked::parse(r#"{"bind":["A","onB"]}"#), Ok(Asked::Bind(vec![name("A"), name("onB")])));
        assert_eq!(Asked::parse(r#"{"unbind":["A"]}"#), Ok(Asked::Unbind(vec![name("A")])));
        assert_eq!(Asked::parse(r#"{"bound":true}"#), Ok(Asked::Bound));
        for (raw, word) in [
            ("7", "object"),
            ("[]", "object"),
            (r#"{"after":-1}"#, "after"),
            (r#"{"after":"1"}"#, "after"),
            (r#"{"after":1.5}"#, "after"),
            (r#"{"most":0}"#, "1000"),
            (r#"{"most":1001}"#, "1000"),
            (r#"{"wait":true}"#, "wait"),
            (r#"{"after":1,"after":2}"#, "once"),
            (r#"{"bind":[]}"#, "bind"),
            (r#"{"bind":"A"}"#, "bind"),
            (r#"{"bind":["A B"]}"#, "bind"),
            (r#"{"bound":false}"#, "bound"),
            (r#"{"bind":["A"],"bound":true}"#, "once"),
            (r#"{"bind":["A"],"wait":1}"#, "wait"),
            (r#"{"count":1}"#, "count"),
        ] {
            let why = Asked::parse(raw).unwrap_err();
            assert!(why.contains(word), "{raw}: {why}");
        }
    }
}
