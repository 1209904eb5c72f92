//! The protocol at the heads of `src/call/refresh/once.rs` and `src/store/mod.rs`, checked in every interleaving of three requests and
//! their refreshers, each of which may be killed at every step. A step is what one system call makes visible to others.
//!
//! Tokens are numbers: the first pair is 1, each successful refresh gives the next. Times are left out: the one expired
//! pair is 1, and a failure is shared for ever.

use std::collections::{HashMap, VecDeque};

const PROCESSES: usize = 3;
const KILLS: u8 = 3;

/// What a file with a pair holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Content {
    /// `Lock::reserve`: blanks.
    Space,
    /// A pair of which a part is written.
    Half,
    Whole(u8),
}

/// `store::LastRefresh`: `failed` as `failure.is_some()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Note {
    spent: u8,
    failed: bool,
    interrupted: bool,
}

/// A request in `refresh::refreshed`, with the pair that it found expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Process {
    /// `Session::authorization` has not read yet.
    Reads,
    /// The loop: looks whether the pair has changed, and tries the lock. `started`: a refresher of its own.
    Polls {
        stale: u8,
        started: bool,
    },
    /// `Store::try_lock` has the lock and is about to `Lock::settle`.
    Settles {
        stale: u8,
        started: bool,
    },
    /// `decide`, and `Refresher::start`, which hands over the lock.
    Decides {
        stale: u8,
        started: bool,
    },
    Done(Outcome),
    Killed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Fresh(u8),
    /// `reinstall_required`
    Reinstall {
        interrupted: bool,
    },
    /// `refresh_pending`: its refresher was lost.
    Pending,
}

/// `refresh::refresh`, step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Refresher {
    /// `adopt_lock` and `Lock::read`.
    Reads,
    Reserves {
        old: u8,
    },
    /// `set_notes` with `begun`.
    NotesBegun {
        old: u8,
    },
    Sends {
        old: u8,
    },
    /// `oauth::request`.
    Awaits {
        old: u8,
    },
    /// `Reserved::commit` writes …
    Writes {
        new: u8,
        half: bool,
    },
    /// … and renames.
    Renames,
    ClearsNote,
    /// Refused: `drop(reserved)`, then `set_notes` with the failure.
    RemovesNew {
        old: u8,
    },
    NotesFailed {
        old: u8,
    },
    Ends,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Request(usize),
    Refresher,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// `NAME.json`, `NAME.json.new` and the note in `NAME.lock`, which `lock` holds.
    json: Content,
    new: Option<Content>,
    note: Option<Note>,
    lock: Option<Holder>,
    processes: [Process; PROCESSES],
    refresher: Option<Refresher>,
    /// The OAuth server: the one token that it accepts, requests on their way to it (the token, and whether the sender
    /// is still there), its answer on the way back, and how often each token was presented.
    live: u8,
    wire: Vec<(u8, bool)>,
    answer: Option<Option<u8>>,
    presented: [u8; 4],
    kills: u8,
    /// Refreshers that were killed after sending and before the new pair was whole, or the refusal noted, on disk.
    in_window: u8,
}

/// A mistake that the checker must find.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    /// `decide` believes what was read before the lock.
    NoReread,
    /// A whole next pair is not put in place.
    NoSettle,
    /// Nobody notes that a refresh begins.
    NoNote,
    /// The pair is written over the old one.
    InPlace,
    /// A killed refresher's lock stays.
    StuckLock,
}

impl State {
    fn first() -> State {
        State {
            json: Content::Whole(1),
            new: None,
            note: None,
            lock: None,
            processes: [Process::Reads; PROCESSES],
            refresher: None,
            live: 1,
            wire: Vec::new(),
            answer: None,
            presented: [0; 4],
            kills: 0,
            in_window: 0,
        }
    }

    fn stored(&self) -> u8 {
        match self.json {
            Content::Whole(pair) => pair,
            other => panic!("the stored pair is {other:?}"),
        }
    }

    /// All states that one step leads to.
    fn next(&self, bug: Bug) -> Vec<State> {
        let mut next: Vec<State> = (0..PROCESSES).filter_map(|i| self.step_of_request(i, bug)).collect();
        next.extend(self.step_of_refresher(bug));
        next.extend((0..self.wire.len()).map(|i| self.execution(i)));
        if self.kills < KILLS {
            next.extend((0..PROCESSES).filter_map(|i| self.kill_of_request(i)));
            next.extend(self.kill_of_refresher(bug));
        }
        next
    }

    fn step_of_request(&self, i: usize, bug: Bug) -> Option<State> {
        let mut s = self.clone();
        s.processes[i] = match self.processes[i] {
            Process::Reads if self.stored() > 1 => Process::Done(Outcome::Fresh(self.stored())),
            Process::Reads => Process::Polls { stale: self.stored(), started: false },
            Process::Polls { stale, .. } if self.stored() != stale => Process::Done(Outcome::Fresh(self.stored())),
            Process::Polls { stale, started } if self.lock.is_none() => {
                s.lock = Some(Holder::Request(i));
                Process::Settles { stale, started }
            }
            Process::Settles { stale, started } => {
                match self.new {
                    // It says which one it replaces.
                    Some(Content::Whole(pair)) if bug != Bug::NoSettle && pair == self.stored() + 1 => {
                        s.json = Content::Whole(pair)
                    }
                    _ => {}
                }
                s.new = None;
                Process::Decides { stale, started }
            }
            Process::Decides { stale, started } => {
                let pair = if bug == Bug::NoReread { stale } else { self.stored() };
                let shared = self.note.filter(|note| note.failed && note.spent == pair);
                s.lock = None;
                if pair != stale {
                    Process::Done(Outcome::Fresh(pair))
                } else if let Some(note) = shared {
                    Process::Done(Outcome::Reinstall { interrupted: note.interrupted })
                } else if started {
                    Process::Done(Outcome::Pending)
                } else {
                    s.lock = Some(Holder::Refresher);
                    s.refresher = Some(Refresher::Reads);
                    Process::Polls { stale, started: true }
                }
            }
            Process::Polls { .. } | Process::Done(_) | Process::Killed => return None,
        };
        Some(s)
    }

    fn step_of_refresher(&self, bug: Bug) -> Option<State> {
        let mut s = self.clone();
        s.refresher = Some(match self.refresher? {
            Refresher::Reads => Refresher::Reserves { old: self.stored() },
            Refresher::Reserves { old } => {
                s.new = Some(Content::Space);
                Refresher::NotesBegun { old }
            }
            Refresher::NotesBegun { old } => {
                let before = self.note.filter(|note| note.spent == old);
                let interrupted = before.is_some_and(|note| !note.failed || note.interrupted);
                if bug != Bug::NoNote {
                    s.note = Some(Note { spent: old, failed: false, interrupted });
                }
                Refresher::Sends { old }
            }
            Refresher::Sends { old } => {
                s.wire.push((old, true));
                Refresher::Awaits { old }
            }
            Refresher::Awaits { old } => {
                s.answer = None;
                match self.answer? {
                    Some(new) => Refresher::Writes { new, half: false },
                    None => Refresher::RemovesNew { old },
                }
            }
            Refresher::Writes { new, half } => {
                let written = if half { Content::Whole(new) } else { Content::Half };
                if bug == Bug::InPlace {
                    s.json = written;
                }
                s.new = Some(written);
                if half {
                    Refresher::Renames
                } else {
                    Refresher::Writes { new, half: true }
                }
            }
            Refresher::Renames => {
                s.json = self.new.expect("it was reserved");
                s.new = None;
                Refresher::ClearsNote
            }
            Refresher::ClearsNote => {
                s.note = None;
                Refresher::Ends
            }
            Refresher::RemovesNew { old } => {
                s.new = None;
                Refresher::NotesFailed { old }
            }
            Refresher::NotesFailed { old } => {
                let interrupted = self.note.is_some_and(|note| note.interrupted);
                s.note = Some(Note { spent: old, failed: true, interrupted });
                Refresher::Ends
            }
            Refresher::Ends => {
                (s.lock, s.refresher) = (None, None);
                return Some(s);
            }
        });
        Some(s)
    }

    /// The OAuth server executes a request, perhaps long after its sender was killed.
    fn execution(&self, i: usize) -> State {
        let mut s = self.clone();
        let (token, sender_is_there) = s.wire.remove(i);
        s.presented[usize::from(token)] += 1;
        let answer = (token == self.live).then_some(token + 1);
        s.live = answer.unwrap_or(self.live);
        if sender_is_there {
            s.answer = Some(answer);
        }
        s
    }

    fn kill_of_request(&self, i: usize) -> Option<State> {
        if matches!(self.processes[i], Process::Done(_) | Process::Killed) {
            return None;
        }
        let mut s = State { kills: self.kills + 1, ..self.clone() };
        s.processes[i] = Process::Killed;
        s.lock = self.lock.filter(|holder| *holder != Holder::Request(i));
        Some(s)
    }

    fn kill_of_refresher(&self, bug: Bug) -> Option<State> {
        use Refresher::{Awaits, NotesFailed, RemovesNew, Writes};
        let window = matches!(self.refresher?, Awaits { .. } | Writes { .. } | RemovesNew { .. } | NotesFailed { .. });
        let mut s = State { kills: self.kills + 1, refresher: None, answer: None, ..self.clone() };
        s.in_window += u8::from(window);
        s.wire.iter_mut().for_each(|(_, sender_is_there)| *sender_is_there = false);
        if bug != Bug::StuckLock {
            s.lock = None;
        }
        Some(s)
    }

    /// What must hold in every state.
    fn check(&self) -> Result<(), &'static str> {
        let Content::Whole(stored) = self.json else { return Err("the stored pair is not whole") };
        let refused = self.note.is_some_and(|note| note.failed);
        if self.in_window == 0 {
            if self.presented.iter().any(|count| *count > 1) || self.presented.iter().sum::<u8>() > 1 {
                return Err("more than one refresh");
            }
            let held = match self.refresher {
                Some(Refresher::Writes { new, .. }) => Some(new),
                _ => self.answer.flatten(),
            };
            if ![Some(stored), held].contains(&Some(self.live)) && self.new != Some(Content::Whole(self.live)) {
                return Err("the live token is lost");
            }
            if refused {
                return Err("a live token was refused");
            }
        }
        if self.presented[1] > 1 + self.in_window {
            return Err("a spent token was presented more than once after a kill");
        }
        let misnamed = |process: &Process| *process == Process::Done(Outcome::Reinstall { interrupted: false });
        if self.processes.iter().any(misnamed) {
            return Err("reinstall_required without the reason");
        }
        let dead = |process: &Process| matches!(process, Process::Done(Outcome::Fresh(pair)) if *pair <= 1);
        match self.processes.iter().any(dead) {
            true => Err("the expired pair was handed out"),
            false => Ok(()),
        }
    }

    /// What must hold where nothing can happen any more.
    fn check_end(&self) -> Result<(), &'static str> {
        let ended = |process: &Process| matches!(process, Process::Done(_) | Process::Killed);
        if !self.processes.iter().all(ended) || self.lock.is_some() || self.refresher.is_some() {
            return Err("a deadlock");
        }
        let is_fresh = |process: &Process| matches!(process, Process::Done(Outcome::Fresh(_)));
        match self.kills == 0 && !self.processes.iter().all(is_fresh) {
            true => Err("nobody was killed and somebody has no tokens"),
            false => Ok(()),
        }
    }
}

/// Breadth first through all states: how many there are, or the shortest way to one that must not be.
fn explore(bug: Bug) -> Result<HashMap<State, Option<State>>, (String, Vec<State>)> {
    let mut seen = HashMap::from([(State::first(), None)]);
    let mut queue = VecDeque::from([State::first()]);
    while let Some(state) = queue.pop_front() {
        let checked = state.check().and_then(|()| {
            let next = state.next(bug);
            if next.is_empty() {
                state.check_end()?;
            }
            Ok(next)
        });
        let next = match checked {
            Ok(next) => next,
            Err(why) => {
                let way = std::iter::successors(Some(state), |state| seen[state].clone()).collect();
                return Err((why.to_owned(), way));
            }
        };
        for reached in next {
            if !seen.contains_key(&reached) {
                seen.insert(reached.clone(), Some(state.clone()));
                queue.push_back(reached);
            }
        }
    }
    Ok(seen)
}

#[test]
fn in_every_interleaving_one_process_refreshes_and_the_live_token_is_not_lost() {
    let states = explore(Bug::None).unwrap_or_else(|(why, way)| {
        panic!("{why}:\n{}", way.iter().rev().map(|state| format!("{state:?}\n")).collect::<String>())
    });
    // The interesting ends are among them.
    let some = |is_so: &dyn Fn(&State) -> bool| assert!(states.keys().any(is_so));
    let ends_with = |outcome: Outcome| move |state: &State| state.processes.contains(&Process::Done(outcome));
    some(&ends_with(Outcome::Reinstall { interrupted: true }));
    some(&ends_with(Outcome::Pending));
    some(&|state| state.kills == 0 && state.processes == [Process::Done(Outcome::Fresh(2)); PROCESSES]);
    some(&|state| state.in_window == 1 && state.presented[1] == 2);
    println!("{} states", states.len());
}

#[test]
fn the_checker_finds_mistakes() {
    for (bug, expected) in [
        (Bug::NoReread, "more than one refresh"),
        (Bug::NoSettle, "the live token is lost"),
        (Bug::NoNote, "reinstall_required without the reason"),
        (Bug::InPlace, "the stored pair is not whole"),
        (Bug::StuckLock, "a deadlock"),
    ] {
        let found = explore(bug).map(|states| states.len()).map_err(|(why, _)| why);
        assert_eq!(found, Err(expected.to_owned()), "{bug:?}");
    }
}
