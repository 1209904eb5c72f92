//! The simulator's time: the machine's, moved forward on demand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Default)]
pub(crate) struct Clock {
    ahead_ms: AtomicU64,
}

impl Clock {
    /// Unix time in seconds.
    pub(crate) fn now(&self) -> f64 {
        let real = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        real + self.ahead_ms.load(Ordering::Relaxed) as f64 / 1000.0
    }

    pub(crate) fn advance(&self, seconds: f64) {
        self.ahead_ms.fetch_add((seconds.max(0.0) * 1000.0) as u64, Ordering::Relaxed);
    }
}

/// `2026-08-01T12:00:00+03:00`, as a portal in Moscow writes it.
pub(crate) fn iso(unix: f64) -> String {
    let local = unix as i64 + 3 * 3600;
    let (days, seconds) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}+03:00", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::iso;

    #[test]
    fn dates_are_written_in_moscow_time() {
        assert_eq!(iso(0.0), "1970-01-01T03:00:00+03:00");
        assert_eq!(iso(951_782_399.0), "2000-02-29T02:59:59+03:00");
        assert_eq!(iso(1_785_542_400.9), "2026-08-01T03:00:00+03:00");
    }
}
