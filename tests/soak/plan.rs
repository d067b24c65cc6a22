//! What happens to each pod, decided by the seed and the pod's number alone: no clock, no I/O.

use std::time::Duration;

/// What a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Counts for ever, slowly.
    Counter,
    /// The same, with a port on the host.
    Published,
    /// Two that count, in one PID namespace.
    Shared,
    /// Counts as fast as it can, and succeeds.
    Burst,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The daemon.
    Node,
    /// The pod's supervisor.
    Shim,
    /// The pod's pause.
    Pause,
    /// Supervisor and daemon.
    ShimAndNode,
    /// All three.
    All,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// So long after the pod was asked for.
    Starting(Duration),
    /// While it runs.
    Running,
    /// So long after its deletion was asked for.
    Ending(Duration),
}

/// One pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub kind: Kind,
    pub death: Option<(Victim, Moment)>,
    /// Whether a program is run in it.
    pub exec: bool,
}

/// A death of the node stops everybody's work, so it is the rarest.
const NODE_DEATHS: u64 = 25;
const OTHER_DEATHS: u64 = 4;
/// A pod is up, and down again, within a few times this, when nobody disturbs it.
const STEP: Duration = Duration::from_millis(40);

impl Plan {
    /// The life of pod `number`.
    pub fn of(seed: u64, number: u64) -> Plan {
        let mut random = Random(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let kind = match random.below(8) {
            0 | 1 => Kind::Burst,
            2 => Kind::Shared,
            3 => Kind::Published,
            _ => Kind::Counter,
        };
        let victim = match random.below(NODE_DEATHS) {
            0 => Some([Victim::Node, Victim::Node, Victim::ShimAndNode, Victim::All][random.below(4) as usize]),
            _ => match random.below(OTHER_DEATHS) {
                0 => Some([Victim::Shim, Victim::Shim, Victim::Pause][random.below(3) as usize]),
                _ => None,
            },
        };
        let after = STEP.mul_f64(random.below(1000) as f64 / 1000.0);
        let moment = match random.below(3) {
            0 => Moment::Starting(after),
            1 => Moment::Running,
            _ => Moment::Ending(after),
        };
        Plan {
            kind,
            death: victim.map(|victim| (victim, moment)),
            exec: random.below(10) == 0,
        }
    }

    /// Whether the pod's containers are the same ones after the death: only a pause that they share takes them along.
    pub fn survives(&self) -> bool {
        let pause_dies = matches!(self.death, Some((Victim::Pause | Victim::All, Moment::Running)));
        !(self.kind == Kind::Shared && pause_dies)
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_no_other() {
        let plans = |seed| (0..100).map(|number| Plan::of(seed, number)).collect::<Vec<_>>();
        assert_eq!(plans(7), plans(7));
        assert_ne!(plans(7), plans(8));
    }

    #[test]
    fn everything_happens() {
        let plans: Vec<_> = (0..2000).map(|number| Plan::of(1, number)).collect();
        for victim in [
            Victim::Node,
            Victim::Shim,
            Victim::Pause,
            Victim::ShimAndNode,
            Victim::All,
        ] {
            assert!(
                plans
                    .iter()
                    .any(|plan| plan.death.is_some_and(|(who, _)| who == victim)),
                "{victim:?}"
            );
        }
        for kind in [Kind::Counter, Kind::Published, Kind::Shared, Kind::Burst] {
            assert!(plans.iter().any(|plan| plan.kind == kind), "{kind:?}");
        }
        assert!(plans.iter().any(|plan| !plan.survives()));
    }
}
