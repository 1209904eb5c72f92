//! Starting processes as an unprivileged user, and leaving none behind.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// `nobody`, as whom everything runs when the tests run as root.
const NOBODY: u32 = 65534;

/// The search path that web servers hand to CGI programs.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The effective user of this process.
pub(crate) fn user_id() -> u32 {
    fs::metadata("/proc/self").expect("/proc is mounted").uid()
}

/// Owner of everything in a sandbox, where it is not simply the current user.
pub(crate) fn unprivileged_owner() -> Option<(u32, u32)> {
    (user_id() == 0).then_some((NOBODY, NOBODY))
}

/// A command as an unprivileged user with an empty environment. (std drops
/// root's supplementary groups when it changes the user.)
pub(crate) fn unprivileged(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = unprivileged_owner() {
        command.uid(uid).gid(gid);
    }
    command.env_clear();
    command
}

/// A server in a process group of its own, which ends with this value, and also
/// when the test is killed: a guard beside it waits for the end of a pipe that
/// only the test holds open.
pub struct Group {
    child: Child,
    guard: Child,
    guard_pipe: Option<ChildStdin>,
}

impl Group {
    pub fn start(command: Command) -> io::Result<Group> {
        Group::start_at(command, Stdio::null())
    }

    /// With this as standard input.
    pub(crate) fn start_at(mut command: Command, input: Stdio) -> io::Result<Group> {
        let mut child = command.process_group(0).stdin(input).spawn()?;
        let guard = unprivileged("/bin/sh")
            .args(["-c", "read -r _; kill -s KILL -- \"-$1\"", "guard"])
            .arg(child.id().to_string())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match guard {
            Ok(mut guard) => Ok(Group { guard_pipe: guard.stdin.take(), child, guard }),
            Err(error) => {
                signal_group(child.id(), "KILL");
                let _ = child.wait();
                Err(error)
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks with TERM, insists with KILL after two seconds. Only the leader is
    /// asked: a server ends its children and reaps them, as PID 1 of a container
    /// perhaps does not.
    pub(crate) fn stop(&mut self) {
        if self.guard_pipe.is_none() {
            return;
        }
        signal(self.child.id(), "TERM");
        let patience = Instant::now() + Duration::from_secs(2);
        while !self.has_ended() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(10));
        }
        // The guard kills what is left of the group.
        drop(self.guard_pipe.take());
        let _ = self.guard.wait();
        let _ = self.child.wait();
        let patience = Instant::now() + Duration::from_secs(2);
        while group_lives(self.child.id()) && Instant::now() < patience {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends a signal ("TERM", "KILL", …) to one process.
pub fn signal(pid: u32, name: &str) {
    kill(name, &pid.to_string());
}

/// Sends a signal to every process of a group.
pub(crate) fn signal_group(group: u32, name: &str) {
    kill(name, &format!("-{group}"));
}

fn kill(name: &str, target: &str) {
    let _ = Command::new("/bin/sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\" 2>/dev/null", "kill"])
        .args([name, target])
        .status();
}

/// Whether a process group has members that are more than a zombie.
fn group_lives(group: u32) -> bool {
    let group = group.to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.into_iter().any(|process| {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // pid (name) state parent group …; the name may contain anything.
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let alive = !matches!(fields.next(), None | Some("" | "Z" | "X"));
        alive && fields.nth(1) == Some(&group)
    })
}

/// A process and all that were started by it and its children, unless they have left it.
pub fn with_descendants(pid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // pid (name) state parent …; the name may contain anything.
        let parent = stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(1)?.parse::<u32>().ok());
        if let (Some(pid), Some(parent)) =
            (entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()), parent)
        {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// Ends every process that was started from this folder, works in it or was
/// given a path in it: detached ones too, which no process group finds.
pub(crate) fn kill_all_in(folder: &Path) {
    for _ in 0..50 {
        let found = all_in(folder);
        if found.is_empty() {
            return;
        }
        for pid in found {
            signal(pid, "KILL");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Processes that belong to a folder, without those that have ended already.
pub(crate) fn all_in(folder: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        if pid != std::process::id() && belongs_to(&entry.path(), folder) {
            found.push(pid);
        }
    }
    found
}

fn belongs_to(process: &Path, folder: &Path) -> bool {
    let link_leads_there =
        |name: &str| fs::read_link(process.join(name)).is_ok_and(|target| target.starts_with(folder));
    // A folder's name is random, so that it cannot be part of another's.
    let names_it = || {
        let folder = folder.as_os_str().as_encoded_bytes();
        fs::read(process.join("cmdline")).is_ok_and(|line| line.windows(folder.len()).any(|part| part == folder))
    };
    link_leads_there("exe") || link_leads_there("cwd") || names_it() || refreshes_for(process, folder)
}

/// Of a process that keeps out of core dumps, the kernel shows these links to root alone; but a refresher is given the name
/// of the portal, and a test's portal has a port of its own.
fn refreshes_for(process: &Path, folder: &Path) -> bool {
    let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
    let mut words = line.split('\0').skip(1);
    match (words.next(), words.next()) {
        (Some("refresher"), Some(portal)) => fs::read_to_string(folder.join("b24proxy/proxy.toml"))
            .is_ok_and(|config| config.contains(&format!("\"{portal}\""))),
        _ => false,
    }
}

/// Peak memory of a running process in KiB (`VmHWM`).
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
