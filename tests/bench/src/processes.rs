//! What `/proc` says of the servers' processes.

/// The processes of these groups.
pub fn members(groups: &[u32]) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid, 2).is_some_and(|group| groups.iter().any(|wanted| group == u64::from(*wanted))))
        .collect()
}

/// User and system time, without children's.
pub fn cpu_ticks(pid: u32) -> Option<u64> {
    Some(stat(pid, 11)? + stat(pid, 12)?)
}

/// A field of /proc/PID/stat, counted from the state.
fn stat(pid: u32, field: usize) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(field)?.parse().ok()
}

/// Whether it is one of the programs that stay beside the web server, by the name that it gives itself.
pub fn is_resident(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let name = line.split(|byte| *byte == 0).next().unwrap_or_default();
    name.starts_with(b"php-fpm") || name.ends_with(b"b24proxy")
}

/// What processes occupy together, MiB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    /// What several share counts once: each of them has its part of it.
    pub parts: f64,
    /// What several share counts for each.
    pub resident: f64,
}

impl Memory {
    pub fn of(pids: &[u32]) -> Memory {
        let rollups: Vec<String> = pids
            .iter()
            .map(|pid| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("they run, and are ours"))
            .collect();
        let sum = |name: &str| {
            let lines = rollups.iter().flat_map(|rollup| rollup.lines()).filter_map(|line| line.strip_prefix(name));
            let kib = lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>();
            kib as f64 / 1024.0
        };
        Memory { parts: sum("Pss:"), resident: sum("Rss:") }
    }
}
