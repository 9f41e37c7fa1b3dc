//! Until when this node knew that it led: from then on counts the lease of the streams it carries.
//!
//! A process that did not run for a while goes on as the leader for a moment: only then is it told that
//! another one leads. That moment must not give its streams a new lease.

use std::time::Duration;

use crate::core::Moment;

/// A process that looked so long ago did not run. It learns within the same time whether it still leads.
const ASLEEP: Duration = Duration::from_secs(1);

/// What is known of this node's own leadership.
#[derive(Debug, Default)]
pub(super) struct Lead {
    looked: Moment,
    awake_since: Moment,
    until: Moment,
}

impl Lead {
    /// Leadership was confirmed by a majority.
    pub fn began(&mut self, now: Moment) {
        self.until = now;
    }

    /// Called several times a second, with whether this node leads as far as it knows.
    pub fn look(&mut self, now: Moment, leads: bool) {
        if now - self.looked > ASLEEP {
            self.awake_since = now;
        }
        self.looked = now;
        if leads && now - self.awake_since > ASLEEP {
            self.until = now;
        }
    }

    /// The last moment at which it surely led.
    pub fn until(&self) -> Moment {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    fn led(looks: &[u64]) -> Moment {
        let mut lead = Lead::default();
        lead.began(at(1000));
        for ms in looks {
            lead.look(at(*ms), true);
        }
        lead.until()
    }

    #[test]
    fn a_node_that_looks_in_time_led_until_its_last_look() {
        assert_eq!(led(&[1000, 1500, 2000, 2500]), at(2500));
    }

    #[test]
    fn a_node_that_overslept_led_until_it_fell_asleep() {
        assert_eq!(led(&[1000, 1500, 2000, 2500, 9000, 9250]), at(2500));
    }

    #[test]
    fn a_node_that_still_leads_when_it_has_been_awake_for_a_while_leads() {
        assert_eq!(led(&[1000, 2500, 3000, 3400, 3600]), at(3600));
    }
}
