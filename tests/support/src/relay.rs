//! Between the program and a database's server: a socket at which statements are counted, and at one of which something
//! happens, before the server has it or when it has answered.

use crate::database::Kind;
use crate::sandbox::{give_away, temp_dir};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The server never gets it.
    Before,
    /// It is done; nobody hears of it.
    After,
}

/// What happens at a statement: to the way, and to the process of this number that has sent it.
/// `true`: its connection is cut then.
type Blow = Box<dyn FnOnce(&Line, u32) -> bool + Send>;

/// One way to a server. It ends with this value.
pub struct Relay {
    folder: PathBuf,
    line: Line,
}

/// What is done to it.
#[derive(Clone)]
pub struct Line(Arc<Shared>);

struct Shared {
    /// The server's socket.
    server: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

/// Of what is to happen.
#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    #[default]
    Ahead,
    Happening,
    Over,
}

#[derive(Default)]
struct State {
    /// What the clients have asked so far, the words of connecting included.
    asked: usize,
    blow: Option<(usize, Moment, Blow)>,
    stage: Stage,
    /// Nothing else counts.
    refreshers_alone: bool,
    is_away: bool,
    is_silent: bool,
    has_ended: bool,
    open: Vec<UnixStream>,
}

impl Relay {
    /// To the server with this socket.
    pub(crate) fn to(kind: Kind, server: PathBuf) -> Relay {
        let folder =
            tempfile::Builder::new().prefix("b24-way-").tempdir_in(temp_dir()).expect("a temporary folder").keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let socket = folder.join(match kind {
            Kind::Postgres => ".s.PGSQL.5432",
            Kind::MySql => "socket",
        });
        let listener = UnixListener::bind(&socket).expect("a socket in a new folder");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).expect("the socket is ours");
        give_away(&folder);
        let line = Line(Arc::new(Shared { server, state: Mutex::default(), changed: Condvar::new() }));
        let own = line.clone();
        thread::spawn(move || own.serve(&listener));
        Relay { folder, line }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How much has been asked since it was told to count anew.
    pub fn asked(&self) -> usize {
        self.line.state().asked
    }

    /// Counts anew; at the n-th, counted from 1, this happens, and its connection is cut.
    pub fn strike(&self, nth: usize, moment: Moment, blow: impl FnOnce(&Line, u32) + Send + 'static) {
        self.strike_by(
            nth,
            moment,
            Box::new(|line, process| {
                blow(line, process);
                true
            }),
        );
    }

    /// The same, and its connection is not cut.
    pub fn strike_and_go_on(&self, nth: usize, moment: Moment, blow: impl FnOnce(&Line) + Send + 'static) {
        self.strike_by(
            nth,
            moment,
            Box::new(|line, _| {
                blow(line);
                false
            }),
        );
    }

    fn strike_by(&self, nth: usize, moment: Moment, blow: Blow) {
        let mut state = self.line.state();
        (state.asked, state.stage, state.blow) = (0, Stage::Ahead, Some((nth, moment, blow)));
    }

    /// From now on what others than refreshers ask does not count.
    pub fn count_refreshers_alone(&self) {
        self.line.state().refreshers_alone = true;
    }

    /// Counts anew, and nothing happens.
    pub fn count(&self) {
        let mut state = self.line.state();
        state.asked = 0;
        state.blow = None;
    }

    /// Whether what was to happen has; if it is just happening, when it has.
    pub fn has_struck(&self) -> bool {
        let mut state = self.line.state();
        while state.stage == Stage::Happening {
            state = self.line.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.stage == Stage::Over
    }

    pub fn line(&self) -> &Line {
        &self.line
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.line.state().has_ended = true;
        self.line.cut();
        self.line.heal();
        // Whoever waits for the next connection has one.
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = UnixStream::connect(entry.path());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every connection is closed, and every new one too.
    pub fn away(&self) {
        self.state().is_away = true;
        self.cut();
    }

    /// Nothing passes, and nothing is closed.
    pub fn silence(&self) {
        self.state().is_silent = true;
    }

    pub fn heal(&self) {
        let mut state = self.state();
        (state.is_away, state.is_silent) = (false, false);
        drop(state);
        self.0.changed.notify_all();
    }

    fn cut(&self) {
        for connection in self.state().open.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn serve(&self, listener: &UnixListener) {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            let state = self.state();
            if state.has_ended {
                return;
            }
            if state.is_away {
                continue;
            }
            drop(state);
            let line = self.clone();
            thread::spawn(move || {
                // Where the server does not run, the client's connection just ends.
                if let Ok(server) = UnixStream::connect(&line.0.server) {
                    line.pass(client, server);
                }
            });
        }
    }

    fn pass(&self, client: UnixStream, server: UnixStream) {
        let [client, server] = [Arc::new(client), Arc::new(server)];
        let process = process_of(&client);
        for end in [&client, &server] {
            self.state().open.push(end.try_clone().expect("a socket can be cloned"));
        }
        let answered = Arc::new(AtomicBool::new(true));
        let after: Arc<Mutex<Option<Blow>>> = Arc::default();
        let back = {
            let (line, answered, after) = (self.clone(), answered.clone(), after.clone());
            let (client, server) = (client.clone(), server.clone());
            move || {
                line.pump(
                    &server,
                    &client,
                    |_| {
                        answered.store(true, Ordering::SeqCst);
                        after.lock().unwrap_or_else(PoisonError::into_inner).take()
                    },
                    process,
                )
            }
        };
        let back = thread::spawn(back);
        self.pump(
            &client,
            &server,
            |bytes| {
                if is_goodbye(bytes) || !answered.swap(false, Ordering::SeqCst) {
                    return None;
                }
                let (moment, blow) = self.asked(process)?;
                match moment {
                    Moment::Before => Some(blow),
                    Moment::After => {
                        *after.lock().unwrap_or_else(PoisonError::into_inner) = Some(blow);
                        None
                    }
                }
            },
            process,
        );
        let _ = back.join();
    }

    /// One more; what happens at it.
    fn asked(&self, process: u32) -> Option<(Moment, Blow)> {
        let mut state = self.state();
        if state.refreshers_alone && !is_refresher(process) {
            return None;
        }
        state.asked += 1;
        let asked = state.asked;
        let (_, moment, blow) = state.blow.take_if(|(nth, ..)| *nth == asked)?;
        Some((moment, blow))
    }

    fn pump(&self, from: &UnixStream, to: &UnixStream, mut at: impl FnMut(&[u8]) -> Option<Blow>, process: u32) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = (&mut &*from).read(&mut buffer) {
            if let Some(blow) = at(&buffer[..length]) {
                self.state().stage = Stage::Happening;
                let is_cut = blow(self, process);
                self.state().stage = Stage::Over;
                self.0.changed.notify_all();
                if is_cut {
                    break;
                }
            }
            self.wait_while_silent();
            if (&mut &*to).write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        self.wait_while_silent();
        for end in [from, to] {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn wait_while_silent(&self) {
        let mut state = self.state();
        while state.is_silent && !state.has_ended {
            let waited = self.0.changed.wait_timeout(state, Duration::from_secs(1));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Of PostgreSQL, and of MySQL: they are no statements, and no answer comes.
fn is_goodbye(bytes: &[u8]) -> bool {
    bytes == [b'X', 0, 0, 0, 4] || bytes == [1, 0, 0, 0, 1]
}

/// Whether a process is one that refreshes tokens.
pub fn is_refresher(process: u32) -> bool {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"refresher")
}

fn process_of(client: &UnixStream) -> u32 {
    let other = rustix::net::sockopt::socket_peercred(client).expect("a socket of this machine");
    other.pid.as_raw_nonzero().get().unsigned_abs()
}
