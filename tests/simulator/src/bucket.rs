//! The leaky bucket that limits a portal's calls.

#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    rate: f64,
    burst: f64,
    level: f64,
    at: f64,
}

impl Bucket {
    /// `rate` drains a second; a call that would lift the level above `burst` is refused.
    pub(crate) fn new(rate: f64, burst: f64, now: f64) -> Bucket {
        Bucket { rate, burst, level: 0.0, at: now }
    }

    pub(crate) fn take(&mut self, now: f64) -> bool {
        let level = self.level(now);
        self.at = now;
        self.level = level;
        if level + 1.0 > self.burst {
            return false;
        }
        self.level += 1.0;
        true
    }

    pub(crate) fn level(&self, now: f64) -> f64 {
        (self.level - (now - self.at).max(0.0) * self.rate).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Bucket;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::new(2.0, 50.0, 100.0);
        assert_eq!((0..60).filter(|_| bucket.take(100.0)).count(), 50);
        assert!(!bucket.take(100.4));
        assert!(bucket.take(100.5));
        assert!(!bucket.take(100.5));
        assert_eq!((0..60).filter(|_| bucket.take(200.0)).count(), 50);
    }

    #[test]
    fn refused_calls_do_not_fill_it() {
        let mut bucket = Bucket::new(1.0, 1.0, 0.0);
        assert!(bucket.take(0.0));
        assert!((0..10).all(|_| !bucket.take(0.5)));
        assert!(bucket.take(1.0));
    }
}
