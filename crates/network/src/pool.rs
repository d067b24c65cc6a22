//! Which address a new pod gets: the lowest free one after the last that was given out, round and round.
//!
//! Round and round, because an address that was just given back is the one that peers still have connections to;
//! not at random, because a person should be able to follow it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::Subnet;

/// The addresses of a subnet and which of them are taken.
#[derive(Debug, Clone)]
pub struct Pool {
    subnet: Subnet,
    used: BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl Pool {
    /// A pool in which nothing is taken; `last` is the address that was given out last, if that is known.
    pub fn new(subnet: Subnet, last: Option<Ipv4Addr>) -> Pool {
        Pool {
            subnet,
            used: BTreeSet::new(),
            last: last.filter(|a| subnet.contains(*a)),
        }
    }

    /// Takes the next address; `None` when all are taken.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let (first, last) = (self.subnet.first_pod(), self.subnet.last_pod());
        let after = self.last.map_or(first.to_bits(), |a| a.to_bits().saturating_add(1));
        let start = if (first.to_bits()..=last.to_bits()).contains(&after) {
            after
        } else {
            first.to_bits()
        };
        let chosen = self
            .lowest_free(start, last.to_bits())
            .or_else(|| self.lowest_free(first.to_bits(), start))?;
        self.used.insert(chosen);
        self.last = Some(chosen);
        Some(chosen)
    }

    /// The lowest free address from `start` to `end`, both included: walks only along what is taken.
    fn lowest_free(&self, start: u32, end: u32) -> Option<Ipv4Addr> {
        let mut candidate = start;
        for taken in self.used.range(Ipv4Addr::from_bits(start)..) {
            if taken.to_bits() != candidate {
                break;
            }
            candidate = candidate.checked_add(1)?;
        }
        (candidate <= end).then(|| Ipv4Addr::from_bits(candidate))
    }

    /// Marks an address as taken, when a record says so; false if it is not one that a pod may have, or is taken already.
    pub fn mark(&mut self, address: Ipv4Addr) -> bool {
        (self.subnet.first_pod()..=self.subnet.last_pod()).contains(&address) && self.used.insert(address)
    }

    /// Gives an address back.
    pub fn give_back(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }

    /// How many addresses the subnet has for pods.
    pub fn capacity(&self) -> u32 {
        self.subnet.last_pod().to_bits() - self.subnet.first_pod().to_bits() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(last: Option<u8>) -> Pool {
        // .1 is the gateway's, .2 to .6 are the pods', .7 is the broadcast address.
        Pool::new("10.0.0.0/29".parse().unwrap(), last.map(address))
    }

    fn address(last_byte: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last_byte)
    }

    fn take(pool: &mut Pool) -> Option<u8> {
        pool.take().map(|a| a.octets()[3])
    }

    #[test]
    fn goes_round_and_takes_the_lowest_free_after_the_last() {
        let mut pool = pool(None);
        assert_eq!(
            std::iter::from_fn(|| take(&mut pool)).collect::<Vec<_>>(),
            [2, 3, 4, 5, 6]
        );
        pool.give_back(address(3));
        pool.give_back(address(5));
        assert_eq!(take(&mut pool), Some(3), "6 was the last: around the end");
        assert_eq!(take(&mut pool), Some(5));
        assert_eq!(take(&mut pool), None);
    }

    #[test]
    fn an_address_given_back_is_not_given_out_next() {
        let mut pool = pool(None);
        assert_eq!(take(&mut pool), Some(2));
        pool.give_back(address(2));
        assert_eq!(take(&mut pool), Some(3));
    }

    #[test]
    fn continues_after_the_last_of_before() {
        let mut pool = pool(Some(6));
        assert_eq!(take(&mut pool), Some(2));
        let mut pool = Pool::new("10.0.0.0/29".parse().unwrap(), Some(Ipv4Addr::new(10, 9, 9, 9)));
        assert_eq!(
            take(&mut pool),
            Some(2),
            "a last address of another subnet means nothing"
        );
    }

    #[test]
    fn marks_only_what_a_pod_may_have() {
        let mut pool = pool(None);
        assert!(pool.mark(address(2)));
        assert!(!pool.mark(address(2)));
        for other in [0, 1, 7, 8] {
            assert!(!pool.mark(address(other)));
        }
        assert_eq!(take(&mut pool), Some(3));
        assert_eq!(pool.capacity(), 5);
    }
}
