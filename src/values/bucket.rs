//! Bitrix24's leaky bucket, and the methods that have used up their time: the rule, on what is known of a portal.
//!
//! A caller reserves its turn and then waits for it: first come, first served. The level may rise above the bucket's size by
//! those who wait; how far it may is how long they are willing to wait. What is known is a hint: damaged or gone, it begins
//! anew, and Bitrix24's own refusals correct it ([`Known::fill`]).

use super::tally::{Calls, Failure, Tally};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Seconds that a method rests after `OPERATION_TIME_LIMIT` when the answer does not say when its time frees; and a portal
/// after `OVERLOAD_LIMIT`, which nobody tells when it is lifted: one call a minute looks.
pub const PAUSE: u64 = 60;
const PAUSE_MS: i64 = PAUSE as i64 * 1000;
/// Seconds. Nothing in the file reaches further ahead, no wait and no method's rest. What does is damage, or another clock's.
pub const HORIZON: u64 = 600;
const HORIZON_MS: i64 = HORIZON as i64 * 1000;
/// Methods that are remembered as blocked; more cannot be in practice.
const MAX_BLOCKED: usize = 64;

/// What is known of a portal's limits. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// How full the bucket is, those who wait included, at `at`.
    level: f64,
    at: i64,
    /// How full the bucket of strangers is; see [`Step::Stranger`].
    strangers: f64,
    /// Method, and until when it is refused.
    blocked: BTreeMap<String, i64>,
    /// Until when the whole portal is refused; 0: it is not.
    overloaded: i64,
    /// Since when it is known that the portal's web server keeps the `Authorization` header to itself; 0: it is not.
    swallows_since: i64,
    /// What the calls have shown.
    #[serde(skip_serializing_if = "Tally::is_empty")]
    pub tally: Tally,
}

/// What is shown of it at a moment. Times are Unix seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Calls in the bucket.
    pub level: f64,
    /// Method, and until when it is refused.
    pub blocked: BTreeMap<String, i64>,
    /// Until when the whole portal is refused.
    pub overloaded: Option<i64>,
    pub tally: Tally,
}

/// The bucket's size and speed.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Calls that drain a second.
    pub rate: f64,
    /// Calls that it holds.
    pub burst: f64,
}

/// Tokens that strangers show: 40 at once, as when an application is opened by many, and 30 a minute. Of Bitrix24's own 50
/// and 2 a second that leaves enough for clients.
const STRANGERS: Bucket = Bucket { rate: 0.5, burst: 40.0 };

/// When a call may go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// After this wait; the place is taken.
    In(Duration),
    /// Not within the wait that was allowed; in so many seconds.
    TooLate { retry_after: u64 },
    /// This method has used up its time; in so many seconds.
    Blocked { retry_after: u64 },
    /// Bitrix24 refuses the whole portal; in so many seconds.
    Overloaded { retry_after: u64 },
}

impl Known {
    /// Whether a record that was read says something that can be.
    pub fn is_sound(&self) -> bool {
        self.level.is_finite() && self.level >= 0.0
    }

    fn drain(&mut self, bucket: Bucket, now: i64) {
        // A clock set back drains nothing.
        let elapsed = now.saturating_sub(self.at).max(0) as f64 / 1000.0;
        let fullest = bucket.burst + HORIZON_MS as f64 / 1000.0 * bucket.rate;
        let level = if self.level <= fullest { self.level } else { 0.0 };
        self.level = (level - elapsed * bucket.rate).max(0.0);
        self.strangers = (self.strangers.clamp(0.0, STRANGERS.burst) - elapsed * STRANGERS.rate).max(0.0);
        self.at = now;
        self.blocked.retain(|_, until| (1..=HORIZON_MS).contains(&until.saturating_sub(now)));
    }

    /// What Bitrix24 has said it will refuse.
    fn refused(&self, method: &str, now: i64) -> Option<Turn> {
        let seconds = |until: i64| whole_seconds((until - now) as f64 / 1000.0);
        if (1..=PAUSE_MS).contains(&self.overloaded.saturating_sub(now)) {
            return Some(Turn::Overloaded { retry_after: seconds(self.overloaded) });
        }
        self.blocked.get(method).map(|until| Turn::Blocked { retry_after: seconds(*until) })
    }

    /// Takes a place, if its turn comes within `max_wait`.
    fn take(&mut self, bucket: Bucket, method: &str, now: i64, max_wait: Duration) -> Turn {
        self.drain(bucket, now);
        if let Some(refused) = self.refused(method, now) {
            return refused;
        }
        let wait = ((self.level + 1.0 - bucket.burst) / bucket.rate).max(0.0);
        if wait > max_wait.as_secs_f64() {
            return Turn::TooLate { retry_after: whole_seconds(wait - max_wait.as_secs_f64()) };
        }
        self.level += 1.0;
        Turn::In(Duration::from_secs_f64(wait))
    }

    fn stranger(&mut self, bucket: Bucket, now: i64) -> Result<(), u64> {
        self.drain(bucket, now);
        let wait = (self.strangers + 1.0 - STRANGERS.burst) / STRANGERS.rate;
        if wait > 0.0 {
            return Err(whole_seconds(wait));
        }
        self.strangers += 1.0;
        Ok(())
    }

    /// Bitrix24 refused a call: its bucket is full, whatever was known here. The refused call took no place.
    fn fill(&mut self, bucket: Bucket, now: i64) {
        self.drain(bucket, now);
        self.level = self.level.max(bucket.burst);
    }

    /// A time that has passed says nothing.
    fn block(&mut self, method: &str, until: Option<i64>, now: i64) -> Turn {
        let until = until.filter(|until| *until > now).unwrap_or(now + PAUSE_MS).min(now + HORIZON_MS);
        if self.blocked.len() < MAX_BLOCKED || self.blocked.contains_key(method) {
            self.blocked.insert(method.to_owned(), until);
        }
        Turn::Blocked { retry_after: whole_seconds((until - now) as f64 / 1000.0) }
    }
}

/// Seconds for `Retry-After`: whole, at least one.
fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil().clamp(1.0, 86_400.0) as u64
}

/// For how long it counts that a portal's web server swallows the header; then it is tried anew.
const SWALLOWED_MS: i64 = 24 * 3_600_000;

/// What is known of a portal when a call is about to go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    pub turn: Turn,
    /// The portal's web server keeps the `Authorization` header to itself: the token must go in the body.
    pub swallows_header: bool,
    /// Calls did not work when it was last seen; see [`Tally::fault`].
    pub fails: bool,
    /// Unix seconds.
    pub at: i64,
}

/// What is done to a bucket.
#[derive(Clone, Copy, Debug)]
pub enum Step<'m> {
    /// A call of this method (its canonical name) takes its place, if its turn comes within `max_wait`. `refused`: Bitrix24
    /// has just answered it with `QUERY_LIMIT_EXCEEDED`. `calls`: as what it counts, once.
    Take { method: &'m str, max_wait: Duration, refused: bool, calls: Option<Calls<'m>> },
    /// A call of this program's own counts but never waits.
    Count,
    /// Somebody without credentials shows a token that is to be tried at the portal.
    Stranger,
    /// Whether a call of this method would be refused; it takes no place.
    Ask { method: &'m str },
    /// A method has used up its time. `until`: Unix seconds, where the answer said so.
    Block { method: &'m str, until: Option<i64> },
    /// Bitrix24 refuses the whole portal.
    Overload,
    /// The token arrived in the body only.
    Swallows,
    /// Calls failed.
    Fail(Failure<'m>),
    /// Calls work again.
    Recover,
    /// Somebody asks whether calls work: it is tried where its turn is in no time.
    Try,
}

impl Known {
    /// Does it, at `now`; the answer is when the call may go, and how, as it was known before.
    pub fn step(&mut self, bucket: Bucket, step: Step, now: i64) -> Told {
        let age = now.saturating_sub(self.swallows_since);
        let swallows_header = self.swallows_since != 0 && (0..SWALLOWED_MS).contains(&age);
        if matches!(step, Step::Swallows) && !swallows_header {
            self.swallows_since = now;
        }
        let fails = self.tally.fault.is_some();
        Told { turn: self.turn(bucket, step, now), swallows_header, fails, at: now.div_euclid(1000) }
    }

    /// As it is at `now`.
    pub fn seen(mut self, bucket: Bucket, now: i64) -> Seen {
        self.drain(bucket, now);
        let seconds = |until: i64| until.saturating_add(999).div_euclid(1000);
        let overloaded = Some(self.overloaded).filter(|until| (1..=PAUSE_MS).contains(&until.saturating_sub(now)));
        Seen {
            level: self.level,
            blocked: self.blocked.into_iter().map(|(method, until)| (method, seconds(until))).collect(),
            overloaded: overloaded.map(seconds),
            tally: self.tally,
        }
    }

    fn turn(&mut self, bucket: Bucket, step: Step, now: i64) -> Turn {
        match step {
            Step::Swallows => {}
            Step::Take { method, max_wait, refused, calls } => {
                if refused {
                    self.fill(bucket, now);
                }
                let turn = self.take(bucket, method, now, max_wait);
                if let (Turn::In(_), Some(calls)) = (turn, calls) {
                    self.tally.take(calls, now.div_euclid(1000));
                }
                return turn;
            }
            Step::Count => {
                self.drain(bucket, now);
                self.level += 1.0;
            }
            Step::Stranger => {
                if let Err(retry_after) = self.stranger(bucket, now) {
                    return Turn::TooLate { retry_after };
                }
            }
            Step::Ask { method } => {
                self.drain(bucket, now);
                return self.refused(method, now).unwrap_or(Turn::In(Duration::ZERO));
            }
            Step::Block { method, until } => {
                self.drain(bucket, now);
                return self.block(method, until.map(|seconds| seconds.saturating_mul(1000)), now);
            }
            Step::Overload => {
                self.drain(bucket, now);
                self.overloaded = now + PAUSE_MS;
                return Turn::Overloaded { retry_after: PAUSE };
            }
            Step::Fail(failure) => self.tally.fail(&failure, now.div_euclid(1000)),
            Step::Recover => self.tally.recover(now.div_euclid(1000)),
            Step::Try => {
                if let Err(retry_after) = self.tally.try_now(now.div_euclid(1000)) {
                    return Turn::TooLate { retry_after };
                }
            }
        }
        Turn::In(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUCKET: Bucket = Bucket { rate: 2.0, burst: 50.0 };
    const LONG: Duration = Duration::from_secs(3600);

    /// Bitrix24's own bucket: +1 a call, refused above the burst.
    struct Theirs {
        level: f64,
        at: f64,
    }

    impl Theirs {
        fn accepts(&mut self, at: f64) -> bool {
            self.level = (self.level - (at - self.at) * BUCKET.rate).max(0.0);
            self.at = at;
            let accepted = self.level + 1.0 <= BUCKET.burst + 1e-6;
            self.level += if accepted { 1.0 } else { 0.0 };
            accepted
        }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_buckets_speed() {
        let mut known = Known::default();
        let waits: Vec<f64> = (0..120)
            .map(|_| match known.take(BUCKET, "m", 1_000_000, LONG) {
                Turn::In(wait) => wait.as_secs_f64(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(waits[..50].iter().all(|wait| *wait == 0.0));
        assert_eq!(waits[50], 0.5);
        assert_eq!(waits[119], 35.0);
    }

    #[test]
    fn whoever_would_wait_too_long_takes_no_place() {
        let mut known = Known { level: 60.0, at: 0, ..Known::default() };
        let turn = known.take(BUCKET, "m", 0, Duration::from_secs(5));
        assert_eq!(turn, Turn::TooLate { retry_after: 1 });
        assert_eq!(known.level, 60.0);
    }

    #[test]
    fn strangers_have_a_small_bucket_of_their_own() {
        let mut known = Known::default();
        assert!((0..40).all(|_| known.stranger(BUCKET, 0).is_ok()));
        assert_eq!(known.stranger(BUCKET, 0), Err(2));
        assert_eq!(known.stranger(BUCKET, 2_000), Ok(()));
        assert_eq!(known.take(BUCKET, "m", 0, LONG), Turn::In(Duration::ZERO));
    }

    #[test]
    fn a_refusal_fills_the_bucket() {
        let mut known = Known::default();
        known.fill(BUCKET, 0);
        assert_eq!(known.take(BUCKET, "m", 0, LONG), Turn::In(Duration::from_millis(500)));
    }

    #[test]
    fn a_blocked_method_rests_and_others_go_on() {
        let mut known = Known::default();
        known.block("crm.deal.list", Some(30_000), 0);
        assert_eq!(known.take(BUCKET, "crm.deal.list", 10_000, LONG), Turn::Blocked { retry_after: 20 });
        assert_eq!(known.take(BUCKET, "crm.deal.add", 10_000, LONG), Turn::In(Duration::ZERO));
        assert_eq!(known.take(BUCKET, "crm.deal.list", 30_000, LONG), Turn::In(Duration::ZERO));
    }

    #[test]
    fn a_time_that_has_passed_or_is_not_told_is_a_minute() {
        for until in [None, Some(0), Some(999), Some(i64::MIN)] {
            let mut known = Known::default();
            let told = known.turn(BUCKET, Step::Block { method: "m", until }, 1_000_000);
            assert_eq!(told, Turn::Blocked { retry_after: 60 }, "{until:?}");
            assert_eq!(known.take(BUCKET, "m", 1_059_000, LONG), Turn::Blocked { retry_after: 1 });
            assert_eq!(known.take(BUCKET, "m", 1_060_000, LONG), Turn::In(Duration::ZERO));
        }
        let mut known = Known::default();
        let told = known.turn(BUCKET, Step::Block { method: "m", until: Some(i64::MAX) }, 1_000_000);
        assert_eq!(told, Turn::Blocked { retry_after: 600 });
    }

    #[test]
    fn a_portal_that_is_refused_rests_for_a_minute_whatever_the_method_and_asking_takes_no_place() {
        let mut known = Known::default();
        let ask = Step::Ask { method: "m" };
        assert_eq!(known.turn(BUCKET, ask, 0), Turn::In(Duration::ZERO));
        assert_eq!(known.level, 0.0);
        assert_eq!(known.turn(BUCKET, Step::Overload, 1_000), Turn::Overloaded { retry_after: 60 });
        assert_eq!(known.turn(BUCKET, ask, 31_000), Turn::Overloaded { retry_after: 30 });
        assert_eq!(known.take(BUCKET, "other", 31_000, LONG), Turn::Overloaded { retry_after: 30 });
        assert_eq!(known.take(BUCKET, "m", 61_000, LONG), Turn::In(Duration::ZERO));
        assert_eq!(known.take(BUCKET, "m", 500, LONG), Turn::In(Duration::ZERO), "a clock set back");
    }

    #[test]
    fn a_web_server_that_swallows_the_header_is_remembered_for_a_day() {
        let mut known = Known::default();
        let mut swallows = |step, now| known.step(BUCKET, step, now).swallows_header;
        assert!(!swallows(Step::Count, 1_000));
        assert!(!swallows(Step::Swallows, 2_000), "not before");
        assert!(swallows(Step::Swallows, 3_000), "another call that was under way");
        assert!(swallows(Step::Count, 2_000 + SWALLOWED_MS - 1));
        assert!(!swallows(Step::Count, 2_000 + SWALLOWED_MS));
        assert!(!swallows(Step::Count, 1_000), "a clock set back");
    }

    #[test]
    fn a_file_of_another_clock_or_of_nonsense_delays_nobody() {
        let blocked = BTreeMap::from([("m".to_owned(), i64::MAX)]);
        let (at, overloaded, swallows_since) = (i64::MAX, i64::MAX, i64::MAX);
        let tally = Tally::default();
        let mut known = Known { level: 1e300, at, strangers: 1e300, blocked, overloaded, swallows_since, tally };
        assert_eq!(known.take(BUCKET, "m", 1_000_000, LONG), Turn::In(Duration::ZERO));
    }

    #[test]
    fn what_version_0_1_wrote_is_read_and_written_as_it_was_while_nobody_calls() {
        let old = r#"{"level":3.0,"at":5000,"strangers":0.0,"blocked":{"m":9000},"overloaded":0,"swallows_since":0}"#;
        let known: Known = serde_json::from_str(old).unwrap();
        assert_eq!(serde_json::to_string(&known).unwrap(), old);
        let seen = known.seen(BUCKET, 5500);
        assert_eq!((seen.level, seen.blocked["m"], seen.overloaded), (2.0, 9, None));
    }

    #[test]
    fn a_call_counts_when_it_takes_its_place_and_only_then() {
        use crate::values::tally::What;
        let mut known = Known::default();
        let take = |known: &mut Known, client, max_wait| {
            let calls = Some(Calls { client: Some(client), count: 1 });
            known.step(Bucket { rate: 1.0, burst: 1.0 }, Step::Take { method: "m", max_wait, refused: false, calls }, 0)
        };
        assert_eq!(
            take(&mut known, "a", LONG),
            Told { turn: Turn::In(Duration::ZERO), swallows_header: false, fails: false, at: 0 }
        );
        assert!(matches!(take(&mut known, "b", Duration::ZERO).turn, Turn::TooLate { .. }));
        let counts = known.tally.by_client(What::Calls, 0).hour;
        assert_eq!(counts, BTreeMap::from([("a".to_owned(), 1)]));
    }

    proptest! {
        #[test]
        fn no_order_of_callers_is_ever_above_what_bitrix24_allows(gaps in proptest::collection::vec(0i64..900, 1..300)) {
            let (mut known, mut theirs, mut now) = (Known::default(), Theirs { level: 0.0, at: 0.0 }, 0i64);
            let mut sent: Vec<f64> = Vec::new();
            for gap in gaps {
                now += gap;
                if let Turn::In(wait) = known.take(BUCKET, "m", now, Duration::from_secs(20)) {
                    sent.push(now as f64 / 1000.0 + wait.as_secs_f64());
                }
            }
            prop_assert!(sent.windows(2).all(|pair| pair[0] <= pair[1]), "first come, first served");
            for at in sent {
                prop_assert!(theirs.accepts(at));
            }
        }
    }
}
