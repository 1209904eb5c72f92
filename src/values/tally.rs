//! What the calls to a portal have shown: how many there were by client, when the last one was, what failed, and whether calls
//! work. It is kept with the bucket, which is written anyway when a call takes its place.
//!
//! How a call ends is known only later, and a call that succeeds writes nothing then. So a call counts when it takes its place
//! and is taken for one that succeeds; one that fails says so, and so does the first that succeeds after calls did not work.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Seconds of a slot of the last hour.
const SLOT: i64 = 300;
/// Slots of the last hour, and so in an hour.
const SLOTS: usize = 12;
pub const HOURS: usize = 24;
/// More clients are counted together, as [`OTHERS`].
const MOST_CLIENTS: usize = 50;
pub const OTHERS: &str = "others";
/// Characters of a client's name, a method or a code.
const LONGEST_NAME: usize = 64;
/// Above every count that Bitrix24's limits allow in an hour.
const MOST: u32 = 9_999_999;
/// Calls under way of which it is not known whether they fail.
const MOST_RECENT: usize = 8;
/// Seconds between two tries of whether calls work.
pub const BETWEEN_TRIES: i64 = 60;

/// Times are Unix seconds; 0: never.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// The newest slot, counted from 1970.
    slot: i64,
    clients: BTreeMap<String, Counts>,
    /// When a call last took its place.
    pub last_call: i64,
    /// When the last calls of which no failure is known took theirs.
    recent: Vec<i64>,
    /// The same of the last one before them.
    succeeded: i64,
    pub last_error: Option<LastError>,
    /// Why calls do not work, as the last one or a try has shown; `None`: they do.
    pub fault: Option<Fault>,
    /// When it was last tried whether calls work.
    tried: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Counts {
    #[serde(rename = "c", skip_serializing_if = "Slots::is_empty")]
    calls: Slots,
    #[serde(rename = "e", skip_serializing_if = "Slots::is_empty")]
    errors: Slots,
}

/// Counts of the last hour's slots and of the last hours, the newest first; zeros at the end are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Slots(Vec<u32>, Vec<u32>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    pub at: i64,
    pub error_code: String,
    #[serde(default)]
    pub method: String,
    /// Bitrix24's own code.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bitrix24: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub at: i64,
    /// `error_code`
    pub reason: String,
}

/// Calls of a client, `None`: of whoever is no client of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'c> {
    pub client: Option<&'c str>,
    pub count: u32,
}

/// Calls that failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'f> {
    pub calls: Calls<'f>,
    pub place: Place,
    pub method: &'f str,
    pub error_code: &'f str,
    pub bitrix24: &'f str,
    pub shows: Shows,
}

/// Whether calls that failed are counted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// They took their place then.
    TakenAt(i64),
    /// With others that did not fail.
    AmongOthers,
    /// They never took one, and are counted now.
    Never,
}

/// What the end of a call shows of other calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// They work: Bitrix24 has understood this one.
    Works,
    /// They do not.
    Fails,
    Nothing,
}

/// How many there were of each client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByClient {
    pub hour: BTreeMap<String, u64>,
    pub day: BTreeMap<String, u64>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Calls,
    Errors,
}

impl Tally {
    pub fn is_empty(&self) -> bool {
        *self == Tally::default()
    }

    /// Calls take their place.
    pub fn take(&mut self, calls: Calls, now: i64) {
        self.count(What::Calls, calls, now);
        self.last_call = now;
        if self.fault.is_none() {
            self.recent.push(now);
            if self.recent.len() > MOST_RECENT {
                self.succeeded = self.succeeded.max(self.recent.remove(0));
            }
            self.recent.truncate(MOST_RECENT);
        }
    }

    pub fn fail(&mut self, failure: &Failure, now: i64) {
        match failure.place {
            Place::Never => self.count(What::Calls, failure.calls, now),
            Place::TakenAt(at) => {
                let found = self.recent.iter().position(|recent| *recent == at);
                found.map(|index| self.recent.remove(index));
            }
            Place::AmongOthers => {}
        }
        self.count(What::Errors, failure.calls, now);
        let (error_code, method, bitrix24) =
            (short(failure.error_code), short(failure.method), short(failure.bitrix24));
        match failure.shows {
            Shows::Works => self.fault = None,
            Shows::Fails => self.fault = Some(Fault { at: now, reason: error_code.clone() }),
            Shows::Nothing => {}
        }
        self.last_error = Some(LastError { at: now, error_code, method, bitrix24 });
    }

    /// The first call, or a try, that succeeds after calls did not work.
    pub fn recover(&mut self, now: i64) {
        self.fault = None;
        self.succeeded = now;
    }

    /// Whether it is time to try whether calls work; then nobody else does for a minute. Else in how many seconds it is.
    pub fn try_now(&mut self, now: i64) -> Result<(), u64> {
        let age = now.saturating_sub(self.tried);
        if (0..BETWEEN_TRIES).contains(&age) {
            return Err(BETWEEN_TRIES.abs_diff(age));
        }
        self.tried = now;
        Ok(())
    }

    /// When the last call that is not known to have failed took its place; 0: none is known.
    pub fn last_success(&self) -> i64 {
        self.recent.iter().copied().fold(self.succeeded, i64::max)
    }

    /// The counts of the last hour and day. Hours begin as the clock's do, so that a day is 23 hours and the one that runs.
    pub fn by_client(&self, what: What, now: i64) -> ByClient {
        let mut counts = ByClient::default();
        for (name, slots) in self.at(now).slots(what) {
            counts.hour.insert(name.to_owned(), slots.0.iter().copied().map(u64::from).sum());
            counts.day.insert(name.to_owned(), slots.1.iter().copied().map(u64::from).sum());
        }
        counts
    }

    /// The counts of each of the last hours, of all clients together, the newest first.
    pub fn by_hour(&self, what: What, now: i64) -> [u64; HOURS] {
        let mut hours = [0; HOURS];
        for (_, slots) in self.at(now).slots(what) {
            for (hour, count) in hours.iter_mut().zip(&slots.1) {
                *hour += u64::from(*count);
            }
        }
        hours
    }

    /// As it is then.
    fn at(&self, now: i64) -> Tally {
        let mut then = self.clone();
        then.advance(now);
        then
    }

    fn slots(&self, what: What) -> impl Iterator<Item = (&str, &Slots)> {
        self.clients.iter().map(move |(name, counts)| match what {
            What::Calls => (name.as_str(), &counts.calls),
            What::Errors => (name.as_str(), &counts.errors),
        })
    }

    fn count(&mut self, what: What, calls: Calls, now: i64) {
        self.advance(now);
        let Some(name) = calls.client.map(short).filter(|_| calls.count > 0) else { return };
        let has_place = self.clients.contains_key(&name) || self.clients.len() < MOST_CLIENTS;
        let counts = self.clients.entry(if has_place { name } else { OTHERS.to_owned() }).or_default();
        match what {
            What::Calls => counts.calls.add(calls.count),
            What::Errors => counts.errors.add(calls.count),
        }
    }

    /// Slots that have passed move back, and out. A clock that is a little behind goes on counting in the newest one.
    fn advance(&mut self, now: i64) {
        let (slot, slots) = (now.div_euclid(SLOT), SLOTS as i64);
        if slot < self.slot.saturating_sub(slots) {
            // Of another clock.
            self.clients.clear();
        } else if slot <= self.slot {
            return;
        }
        let hours = slot.div_euclid(slots).saturating_sub(self.slot.div_euclid(slots));
        let passed = slot.saturating_sub(self.slot);
        for counts in self.clients.values_mut() {
            counts.calls.shift(passed, hours);
            counts.errors.shift(passed, hours);
        }
        self.clients.retain(|_, counts| !(counts.calls.is_empty() && counts.errors.is_empty()));
        self.slot = slot;
    }
}

impl Slots {
    fn is_empty(&self) -> bool {
        self.0.is_empty() && self.1.is_empty()
    }

    fn add(&mut self, count: u32) {
        for slots in [&mut self.0, &mut self.1] {
            match slots.first_mut() {
                Some(newest) => *newest = newest.saturating_add(count).min(MOST),
                None => slots.push(count.min(MOST)),
            }
        }
    }

    fn shift(&mut self, slots: i64, hours: i64) {
        shift(&mut self.0, slots, SLOTS);
        shift(&mut self.1, hours, HOURS);
    }
}

fn shift(slots: &mut Vec<u32>, by: i64, most: usize) {
    let by = usize::try_from(by).unwrap_or(0).min(most);
    slots.truncate(most - by);
    slots.splice(0..0, std::iter::repeat_n(0, by));
    let used = slots.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    slots.truncate(used);
}

/// As much of a name as is kept.
pub fn short(name: &str) -> String {
    name.chars().take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: Calls = Calls { client: Some("1c"), count: 1 };
    const NOON: i64 = 1_800_000_000 - 1_800_000_000 % 86_400 + 43_200;

    fn failure(place: Place, shows: Shows) -> Failure<'static> {
        Failure { calls: ONE, place, method: "crm.deal.add", error_code: "bitrix24_error", bitrix24: "X", shows }
    }

    fn counted(tally: &Tally, what: What, now: i64) -> (u64, u64) {
        let counts = tally.by_client(what, now);
        let of = |counts: &BTreeMap<String, u64>| counts.get("1c").copied().unwrap_or(0);
        (of(&counts.hour), of(&counts.day))
    }

    #[test]
    fn calls_count_for_an_hour_and_for_a_day() {
        let mut tally = Tally::default();
        tally.take(ONE, NOON);
        tally.take(Calls { count: 50, ..ONE }, NOON + 299);
        assert_eq!(counted(&tally, What::Calls, NOON + 300), (51, 51));
        assert_eq!(counted(&tally, What::Calls, NOON + 3599), (51, 51));
        assert_eq!(counted(&tally, What::Calls, NOON + 3600), (0, 51));
        assert_eq!(counted(&tally, What::Calls, NOON + 23 * 3600 + 3599), (0, 51));
        assert_eq!(counted(&tally, What::Calls, NOON + 24 * 3600), (0, 0));
        assert_eq!(tally.by_hour(What::Calls, NOON + 2 * 3600)[..4], [0, 0, 51, 0]);
        tally.take(ONE, NOON + 25 * 3600);
        assert_eq!(counted(&tally, What::Calls, NOON + 25 * 3600), (1, 1));
        assert_eq!(counted(&tally, What::Errors, NOON), (0, 0));
    }

    #[test]
    fn an_error_counts_once_and_a_call_that_never_took_a_place_counts_with_it() {
        let mut tally = Tally::default();
        tally.take(ONE, NOON);
        tally.fail(&failure(Place::TakenAt(NOON), Shows::Works), NOON + 1);
        assert_eq!((counted(&tally, What::Calls, NOON).0, counted(&tally, What::Errors, NOON).0), (1, 1));
        tally.fail(&failure(Place::Never, Shows::Fails), NOON + 2);
        assert_eq!((counted(&tally, What::Calls, NOON).0, counted(&tally, What::Errors, NOON).0), (2, 2));
        let last = tally.last_error.unwrap();
        assert_eq!((last.at, last.method.as_str(), last.bitrix24.as_str()), (NOON + 2, "crm.deal.add", "X"));
    }

    #[test]
    fn the_last_success_is_the_last_call_that_nobody_says_has_failed() {
        let mut tally = Tally::default();
        assert_eq!(tally.last_success(), 0);
        tally.take(ONE, NOON);
        for i in 1..20 {
            tally.take(ONE, NOON + i);
            tally.fail(&failure(Place::TakenAt(NOON + i), Shows::Works), NOON + i);
        }
        assert_eq!(tally.last_success(), NOON);
        // Two at once, of which the second fails first.
        tally.take(ONE, NOON + 30);
        tally.take(ONE, NOON + 31);
        tally.fail(&failure(Place::TakenAt(NOON + 31), Shows::Works), NOON + 32);
        assert_eq!(tally.last_success(), NOON + 30);
        tally.fail(&failure(Place::TakenAt(NOON + 30), Shows::Works), NOON + 32);
        assert_eq!(tally.last_success(), NOON);
    }

    #[test]
    fn while_calls_do_not_work_none_is_taken_for_a_success_until_one_says_so() {
        let mut tally = Tally::default();
        tally.take(ONE, NOON);
        tally.fail(&failure(Place::Never, Shows::Fails), NOON + 1);
        assert_eq!(tally.fault, Some(Fault { at: NOON + 1, reason: "bitrix24_error".into() }));
        tally.take(ONE, NOON + 2);
        assert_eq!((tally.last_call, tally.last_success()), (NOON + 2, NOON));
        tally.fail(&failure(Place::TakenAt(NOON + 2), Shows::Nothing), NOON + 2);
        assert!(tally.fault.is_some());
        tally.recover(NOON + 3);
        assert_eq!((tally.fault.clone(), tally.last_success()), (None, NOON + 3));
    }

    #[test]
    fn it_is_tried_once_a_minute_and_a_clock_set_back_frees_it() {
        let mut tally = Tally::default();
        assert_eq!(tally.try_now(NOON), Ok(()));
        assert_eq!(tally.try_now(NOON), Err(60));
        assert_eq!(tally.try_now(NOON + 59), Err(1));
        assert_eq!(tally.try_now(NOON + 60), Ok(()));
        assert_eq!(tally.try_now(NOON), Ok(()));
    }

    #[test]
    fn more_clients_than_are_kept_are_counted_together() {
        let mut tally = Tally::default();
        for i in 0..MOST_CLIENTS + 10 {
            tally.take(Calls { client: Some(&format!("client {i}")), count: 1 }, NOON);
        }
        let counts = tally.by_client(What::Calls, NOON).hour;
        assert_eq!((counts.len(), counts[OTHERS]), (MOST_CLIENTS + 1, 10));
        tally.take(Calls { client: None, count: 1 }, NOON);
        assert_eq!(tally.by_client(What::Calls, NOON).hour, counts, "of no client");
    }

    #[test]
    fn the_fullest_record_is_smaller_than_what_is_read_of_a_file() {
        let mut tally = Tally::default();
        let names: Vec<String> = (0..60).map(|i| format!("{i:02}{}", "\u{10ffff}".repeat(80))).collect();
        for hour in 0..25 {
            for slot in 0..12 {
                for name in &names {
                    let calls = Calls { client: Some(name), count: u32::MAX };
                    let now = NOON + hour * 3600 + slot * SLOT;
                    tally.take(calls, now);
                    tally.fail(&Failure { calls, ..failure(Place::Never, Shows::Fails) }, now);
                }
            }
        }
        let bytes = serde_json::to_vec(&tally).unwrap().len();
        assert!(bytes < 50 << 10, "{bytes}");
    }

    #[test]
    fn one_client_that_calls_all_day_takes_little_room() {
        let mut tally = Tally::default();
        for slot in 0..12 * 24 {
            tally.take(Calls { client: Some("1c-trade"), count: 300 }, NOON + slot * SLOT);
        }
        let text = serde_json::to_string(&tally).unwrap();
        assert!(text.len() < 450, "{} {text}", text.len());
    }

    proptest! {
        #[test]
        fn every_call_counts_for_its_hour_and_none_twice(
            calls in proptest::collection::vec((0i64..4000, 1u32..60, any::<bool>()), 1..60),
        ) {
            let (mut tally, mut now, mut made) = (Tally::default(), NOON, Vec::new());
            for (gap, count, fails) in calls {
                now += gap;
                tally.take(Calls { count, ..ONE }, now);
                if fails {
                    tally.fail(&Failure { calls: Calls { count, ..ONE }, ..failure(Place::TakenAt(now), Shows::Works) }, now);
                }
                made.push((now, u64::from(count), fails));
                let sum = |within: &dyn Fn(i64) -> bool, failed: bool| -> u64 {
                    made.iter().filter(|(at, _, fails)| within(*at) && (!failed || *fails)).map(|(_, count, _)| count).sum()
                };
                for (what, failed) in [(What::Calls, false), (What::Errors, true)] {
                    let (hour, day) = counted(&tally, what, now);
                    prop_assert_eq!(hour, sum(&|at| now / SLOT - at / SLOT < 12, failed));
                    prop_assert_eq!(day, sum(&|at| now / 3600 - at / 3600 < 24, failed));
                    prop_assert_eq!(day, tally.by_hour(what, now).iter().sum::<u64>());
                }
                let read: Tally = serde_json::from_str(&serde_json::to_string(&tally).unwrap()).unwrap();
                prop_assert_eq!(&read, &tally);
            }
        }

        #[test]
        fn no_record_and_no_clock_makes_it_fail(
            slot in any::<i64>(), times in proptest::collection::vec(any::<i64>(), 1..12),
            slots in proptest::collection::vec(any::<u32>(), 0..40),
        ) {
            let counts = Counts { calls: Slots(slots.clone(), slots.clone()), errors: Slots(slots, vec![]) };
            let clients = BTreeMap::from([("1c".to_owned(), counts)]);
            let mut tally = Tally { slot, clients, recent: times.clone(), tried: times[0], ..Tally::default() };
            for now in times {
                tally.take(ONE, now);
                tally.fail(&failure(Place::TakenAt(now), Shows::Fails), now);
                let _ = (tally.try_now(now), tally.last_success());
                tally.recover(now);
                let kept = &tally.clients["1c"];
                prop_assert!(kept.calls.0.len() <= 40 && tally.by_hour(What::Calls, now)[0] > 0);
            }
        }
    }
}
