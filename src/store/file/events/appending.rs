//! Appending to a portal's events, and ending what a killed writer began.

use super::place::{at_of, parsed, Mailbox, State, LARGEST};
use crate::store::file::in_place;
use crate::store::records::Event;
use crate::system::clock::unix_now_ms;
use crate::system::disk::{explain, is_contended, open_or_create, open_or_create_in_folder, read_at_once, Reason};
use crate::values::event::{self, Bounds};
use fs2::FileExt;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};

/// Nobody else appends.
pub struct Appending {
    mailbox: Mailbox,
    file: File,
}

impl Appending {
    /// Waits until nobody else appends: that is for a moment.
    pub fn lock(mailbox: &Mailbox) -> Result<Appending, Reason> {
        let path = mailbox.state();
        let file = open_or_create_in_folder(&path)?;
        file.lock_exclusive().map_err(|e| explain(&e, "lock", &path))?;
        Ok(Appending { mailbox: mailbox.clone(), file })
    }

    /// The same, if nobody does.
    pub fn try_lock(mailbox: &Mailbox) -> Result<Option<Appending>, Reason> {
        let path = mailbox.state();
        let file = open_or_create(&path).map_err(|e| explain(&e, "open for writing", &path))?;
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(Some(Appending { mailbox: mailbox.clone(), file })),
            Err(error) if is_contended(&error) => Ok(None),
            Err(error) => Err(explain(&error, "lock", &path)),
        }
    }

    /// Ends what a killed writer began: the state as it is then, and the newest file. With no file yet its first is 0.
    pub(super) fn settle(&self) -> Result<(State, Option<File>), Reason> {
        let known = State::read(&self.file);
        let first = match known {
            Some(state) => Some(state.first),
            None => self.mailbox.segments()?.last().copied(),
        };
        let Some(first) = first else { return Ok((State::new(0, 0, 0), None)) };
        let path = self.mailbox.segment(first);
        let segment = open_or_create(&path).map_err(|e| explain(&e, "open for writing", &path))?;
        let length = segment.metadata().map_err(|e| explain(&e, "read", &path))?.len();
        let start = known.unwrap_or(State::new(first - 1, first, 0));
        if known.is_some() && length == start.end {
            return Ok((start, Some(segment)));
        }
        if length < start.end {
            // What was there is gone, and its numbers are not used again.
            let state = self.begin(start.last)?;
            let path = self.mailbox.segment(state.first);
            return Ok((state, Some(open_or_create(&path).map_err(|e| explain(&e, "open for writing", &path))?)));
        }
        let state = whole_lines(&segment, start).map_err(|e| explain(&e, "read", &path))?;
        let cut = || if state.end < length { segment.set_len(state.end) } else { Ok(()) };
        cut().and_then(|()| segment.sync_data()).map_err(|e| explain(&e, "write", &path))?;
        self.publish(state)?;
        Ok((state, Some(segment)))
    }

    /// So that others can look meanwhile: they cannot settle it.
    pub fn settled(self) -> Result<Appending, Reason> {
        self.settle().map(|_| self)
    }

    /// Begins a file behind this number.
    fn begin(&self, last: u64) -> Result<State, Reason> {
        let path = self.mailbox.segment(last + 1);
        // Left by one that was broken off.
        let _ = std::fs::remove_file(&path);
        open_or_create(&path).map_err(|e| explain(&e, "open for writing", &path))?;
        self.mailbox.sync();
        let state = State::new(last, last + 1, 0);
        self.publish(state)?;
        self.file.sync_all().map_err(|e| explain(&e, "write", &self.mailbox.state()))?;
        Ok(state)
    }

    fn publish(&self, state: State) -> Result<(), Reason> {
        in_place::write(&self.file, &state).map_err(|e| explain(&e, "write", &self.mailbox.state()))
    }

    /// Appends these lines, on disk when it returns; the number of the last. What cannot be written whole is taken back.
    /// `is_full`: whether a new file is begun for them.
    fn append(&self, lines: &str, count: u64, is_full: impl Fn(State, &File) -> bool) -> Result<u64, Reason> {
        let (mut state, mut segment) = self.settle()?;
        if segment.as_ref().is_none_or(|segment| is_full(state, segment)) {
            state = self.begin(state.last)?;
            segment = None;
        }
        let path = self.mailbox.segment(state.first);
        let mut segment = match segment {
            Some(segment) => segment,
            None => open_or_create(&path).map_err(|e| explain(&e, "open for writing", &path))?,
        };
        let mut write = || {
            segment.seek(SeekFrom::Start(state.end))?;
            segment.write_all(lines.as_bytes())?;
            segment.sync_data()
        };
        if let Err(error) = write() {
            let _ = segment.set_len(state.end);
            return Err(explain(&error, "write", &path));
        }
        let state = State::new(state.last + count, state.first, state.end + lines.len() as u64);
        self.publish(state)?;
        Ok(state.last)
    }

    /// Its number.
    pub fn take(&self, name: &str, data: &str, bounds: &Bounds) -> Result<u64, Reason> {
        let now_ms = unix_now_ms();
        // Of a file that would take years to be full the events would stay as long.
        let is_full = |state: State, segment: &File| {
            let is_young = |at_ms| bounds.is_young(at_ms, now_ms);
            state.end >= segment_size(bounds) || state.end > 0 && !first_at(segment).is_some_and(is_young)
        };
        let number = self.append(&event::line(now_ms, name, data), 1, is_full)?;
        // With each new file.
        if self.mailbox.segment(number).exists() {
            self.drop_old(bounds);
        }
        Ok(number)
    }

    /// Removes the files all of whose events are outside of the bounds; the newest stays.
    fn drop_old(&self, bounds: &Bounds) {
        let Some(state) = State::read(&self.file) else { return };
        let Ok(segments) = self.mailbox.segments() else { return };
        let Ok(Some(shown)) = self.mailbox.first_shown(&segments, state, bounds) else { return };
        for pair in segments.windows(2).take_while(|pair| pair[1] <= shown) {
            let _ = std::fs::remove_file(self.mailbox.segment(pair[0]));
        }
    }

    /// All that is kept, a part at a time; the last number.
    pub fn each(&self, take: &mut dyn FnMut(&[Event]) -> Result<(), Reason>) -> Result<u64, Reason> {
        let (state, _) = self.settle()?;
        let (mut part, mut size) = (Vec::new(), 0);
        for first in self.mailbox.segments()?.into_iter().filter(|first| *first <= state.first) {
            let Some(mut lines) = self.mailbox.lines(first, state)? else { continue };
            while let Some(line) = lines.next()? {
                size += line.bytes.len();
                part.push(parsed(line.bytes, line.number).ok_or_else(|| self.mailbox.damaged(first))?);
                if part.len() >= AT_ONCE || size >= BYTES_AT_ONCE {
                    take(&part)?;
                    part.clear();
                    size = 0;
                }
            }
        }
        if !part.is_empty() {
            take(&part)?;
        }
        Ok(state.last)
    }

    pub fn forget(&self) -> Result<(), Reason> {
        // From the oldest, so that what is left of a forgetting that is broken off is what another one finds.
        self.file.set_len(0).map_err(|e| explain(&e, "write", &self.mailbox.state()))?;
        for first in self.mailbox.segments()? {
            let path = self.mailbox.segment(first);
            std::fs::remove_file(&path).map_err(|e| explain(&e, "remove", &path))?;
        }
        Ok(())
    }

    /// Events that were kept elsewhere, in order; those before them are not there any more.
    pub fn put(&self, events: &[Event]) -> Result<(), Reason> {
        let mut rest = events;
        while let Some(first) = rest.first() {
            self.put_last(first.number - 1)?;
            let follow = |(i, event): (usize, &Event)| event.number == first.number + i as u64;
            let count = rest.iter().enumerate().take_while(|(i, event)| follow((*i, *event))).count();
            let (these, others) = rest.split_at(count);
            self.append(&these.iter().map(Event::line).collect::<String>(), count as u64, |state, _| {
                state.end >= LARGEST
            })?;
            rest = others;
        }
        Ok(())
    }

    /// This is the last number, of an event that has been dropped where it is not there.
    pub fn put_last(&self, last: u64) -> Result<(), Reason> {
        if self.settle()?.0.last < last {
            self.begin(last)?;
        }
        Ok(())
    }
}

/// Events that are carried together.
const AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 512 << 10;

/// When the first event of a file arrived.
fn first_at(mut segment: &File) -> Option<i64> {
    segment.seek(SeekFrom::Start(0)).ok()?;
    at_of(&read_at_once(segment, 64).ok()?)
}

/// So that what is dropped by files is a small part of what may be kept.
fn segment_size(bounds: &Bounds) -> u64 {
    (bounds.max_size / 16).clamp(1, LARGEST)
}

/// The state behind what is whole in the newest file, as a killed writer left it.
fn whole_lines(mut segment: &File, start: State) -> std::io::Result<State> {
    segment.seek(SeekFrom::Start(start.end))?;
    let (mut state, mut reader, mut line) = (start, BufReader::new(segment), Vec::new());
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if parsed(&line, 0).is_none() {
            return Ok(state);
        }
        state = State::new(state.last + 1, state.first, state.end + line.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::folder::Folder;
    use super::*;
    use crate::store::test_suite::{portal, texts, wish, Temporary, MANY};
    use crate::store::Store;
    use crate::values::event::EventName;
    use std::path::PathBuf;
    use std::time::Duration;

    struct Fixture {
        store: Folder,
        /// Of the portal's events.
        folder: PathBuf,
        _place: Temporary,
    }

    fn fixture() -> Fixture {
        let place = Temporary::new();
        let store = Folder::new(&place.path().join("tokens"));
        let folder = place.path().join("tokens/events/crm.example.org_8443");
        Fixture { store, folder, _place: place }
    }

    impl Fixture {
        fn take(&self, text: &str, bounds: &Bounds) -> u64 {
            let name = EventName::parse("ONX").unwrap();
            self.store.take_event(&portal(), &name, &format!("{{\"text\":{text:?}}}"), bounds).unwrap()
        }

        fn numbers(&self) -> Vec<u64> {
            texts(&self.store, 0, &MANY).into_iter().map(|(number, _)| number).collect()
        }

        fn state(&self) -> PathBuf {
            self.folder.join("state")
        }

        fn newest(&self) -> PathBuf {
            let names = std::fs::read_dir(&self.folder).unwrap().flatten().map(|entry| entry.path());
            names.filter(|path| path.extension().is_some()).max().unwrap()
        }
    }

    #[test]
    fn a_file_cut_anywhere_says_what_is_whole_and_takes_what_follows() {
        let of = fixture();
        let (mut states, mut lengths) = (Vec::new(), vec![0]);
        for text in ["one", "zwei\n", "три"] {
            of.take(text, &MANY);
            states.push(std::fs::read(of.state()).unwrap());
            lengths.push(std::fs::metadata(of.newest()).unwrap().len() as usize);
        }
        let (path, whole) = (of.newest(), std::fs::read(of.newest()).unwrap());
        // The state may be as old as the file: it is behind what is on disk, and never before it.
        for (known, state) in states.iter().enumerate() {
            for length in lengths[known + 1]..=whole.len() {
                for rest in [&b""[..], b"\0\0\0", b"{\"at\":1,\"event\":\"X\"}\n"] {
                    let read = |is_read_first: bool| {
                        std::fs::write(&path, [&whole[..length], rest].concat()).unwrap();
                        std::fs::write(of.state(), state).unwrap();
                        let said = lengths[1..].iter().filter(|end| **end <= length).count() as u64;
                        if is_read_first {
                            assert_eq!(of.numbers(), (1..=said).collect::<Vec<_>>(), "{length} {rest:?}");
                        }
                        assert_eq!(of.take("next", &MANY), said + 1, "{length} {rest:?}");
                        assert_eq!(of.numbers(), (1..=said + 1).collect::<Vec<_>>(), "{length} {rest:?}");
                        assert_eq!(texts(&of.store, said, &MANY), [(said + 1, "next".to_owned())]);
                    };
                    read(true);
                    read(false);
                }
            }
        }
    }

    #[test]
    fn a_state_that_is_lost_or_damaged_is_found_again() {
        for state in [&b""[..], b"{", b"{\"last\":9,\"first\":1,\"end\":9,\"check\":9}", b"\0\0\0\0"] {
            for has_file in [true, false] {
                let of = fixture();
                for _ in 0..3 {
                    of.take("x", &MANY);
                }
                match has_file {
                    true => std::fs::write(of.state(), state).unwrap(),
                    false => std::fs::remove_file(of.state()).unwrap(),
                }
                if has_file {
                    assert_eq!(of.numbers(), [1, 2, 3]);
                }
                assert_eq!(of.take("x", &MANY), 4);
                assert_eq!(of.numbers(), [1, 2, 3, 4]);
            }
        }
    }

    #[test]
    fn numbers_of_a_file_that_is_gone_are_not_used_again() {
        let of = fixture();
        for _ in 0..3 {
            of.take("x", &MANY);
        }
        std::fs::write(of.newest(), b"").unwrap();
        assert_eq!(of.take("x", &MANY), 4);
        assert_eq!(of.numbers(), [4]);
        std::fs::remove_file(of.newest()).unwrap();
        assert_eq!(of.take("x", &MANY), 5);
    }

    #[test]
    fn what_is_not_told_to_be_on_disk_is_not_read_while_somebody_appends() {
        let of = fixture();
        of.take("x", &MANY);
        let appending = Appending::lock(&Mailbox::new(&of.store, &portal())).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(of.newest()).unwrap();
        file.write_all(event::line(1, "ONX", "{\"text\":\"y\"}").as_bytes()).unwrap();
        assert_eq!((of.numbers(), of.store.last_event(&portal()).unwrap()), (vec![1], 1));
        drop(appending);
        assert_eq!((of.numbers(), of.store.last_event(&portal()).unwrap()), (vec![1, 2], 2));
    }

    #[test]
    fn a_file_that_was_begun_and_not_told_is_begun_again() {
        let of = fixture();
        let small = Bounds { max_size: 16, ..MANY };
        of.take("x", &small);
        std::fs::write(of.folder.join("00000000000000000002.events"), b"{\"at\":1,\"event\":\"ONX\",\"data\":{}}\n")
            .unwrap();
        assert_eq!(of.numbers(), [1]);
        assert_eq!(of.take("y", &small), 2);
        assert_eq!(texts(&of.store, 0, &MANY), [(2, "y".to_owned())]);
    }

    #[test]
    fn the_disk_holds_little_more_than_what_is_kept() {
        let of = fixture();
        let bounds = Bounds { max_size: 64 << 10, ..MANY };
        for _ in 0..1000 {
            of.take(&"x".repeat(500), &bounds);
            let files = std::fs::read_dir(&of.folder).unwrap().flatten();
            let all: u64 = files.map(|entry| entry.metadata().unwrap().len()).sum();
            assert!(all <= (64 << 10) + 2 * (4 << 10) + 2048, "{all}");
        }
        let found = of.store.events(&portal(), &wish(0, 1000), &bounds).unwrap();
        assert!(found.events.len() > 100 && found.lost == 1000 - found.events.len() as u64, "{}", found.lost);
    }

    #[test]
    fn what_is_too_old_does_not_stay_on_disk_until_a_file_is_full() {
        let of = fixture();
        let bounds = Bounds { keep: Duration::from_millis(100), ..MANY };
        of.take("old", &bounds);
        of.take("old too", &bounds);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(of.take("young", &bounds), 3);
        assert_eq!(texts(&of.store, 0, &MANY), [(3, "young".to_owned())]);
    }
}
