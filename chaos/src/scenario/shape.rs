//! Shapes of broken networks.

use std::collections::BTreeSet;

use crate::cluster::ServerId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It hears nobody; the others hear it.
    Deaf,
    /// Nobody hears it; it hears the others.
    Mute,
    Both,
}

/// Which links carry nothing. Clients reach every server all the while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub what: String,
    /// From, to.
    pub severed: BTreeSet<(ServerId, ServerId)>,
    pub sides: Vec<BTreeSet<ServerId>>,
    servers: usize,
}

impl Shape {
    /// One server against all others, in one direction or both.
    pub fn alone(servers: usize, server: ServerId, direction: Direction) -> Shape {
        let others: BTreeSet<ServerId> = (0..servers).filter(|other| *other != server).collect();
        let deaf = others.iter().map(|other| (*other, server));
        let mute = others.iter().map(|other| (server, *other));
        let severed = match direction {
            Direction::Deaf => deaf.collect(),
            Direction::Mute => mute.collect(),
            Direction::Both => deaf.chain(mute).collect(),
        };
        let what = match direction {
            Direction::Deaf => format!("server {server} hears no other"),
            Direction::Mute => format!("server {server} is heard by no other"),
            Direction::Both => format!("server {server} is cut off"),
        };
        Shape { what, severed, sides: vec![BTreeSet::from([server]), others], servers }
    }

    /// Sides that reach one another not at all.
    pub fn split(servers: usize, sides: &[&[ServerId]]) -> Shape {
        let sides: Vec<BTreeSet<ServerId>> =
            sides.iter().map(|side| side.iter().copied().collect()).collect();
        let mut severed = BTreeSet::new();
        for (number, side) in sides.iter().enumerate() {
            for other in
                sides.iter().enumerate().filter(|(other, _)| *other != number).flat_map(|(_, side)| side)
            {
                severed.extend(side.iter().flat_map(|server| [(*server, *other), (*other, *server)]));
            }
        }
        Shape { what: format!("split into {sides:?}"), severed, sides, servers }
    }

    /// Two sides that reach one another through one server alone.
    pub fn bridge(servers: usize, middle: ServerId) -> Shape {
        let others: Vec<ServerId> = (0..servers).filter(|other| *other != middle).collect();
        let (one, other) = others.split_at(others.len() / 2);
        let severed = Shape::split(servers, &[one, other]).severed;
        Shape {
            what: format!("server {middle} is the bridge between {one:?} and {other:?}"),
            severed,
            sides: Vec::new(),
            servers,
        }
    }

    fn reach(&self, server: ServerId) -> BTreeSet<ServerId> {
        let both = |other: &ServerId| {
            !self.severed.contains(&(server, *other)) && !self.severed.contains(&(*other, server))
        };
        (0..self.servers).filter(both).collect()
    }

    /// Servers that can have no write taken: neither they nor anyone they can talk to reaches a majority.
    pub fn losers(&self) -> Vec<ServerId> {
        let majority = |server: &ServerId| self.reach(*server).len() * 2 > self.servers;
        (0..self.servers).filter(|server| !self.reach(*server).iter().any(majority)).collect()
    }

    pub fn winners(&self) -> Vec<ServerId> {
        let losers = self.losers();
        (0..self.servers).filter(|server| !losers.contains(server)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_quorum_loses() {
        for direction in [Direction::Deaf, Direction::Mute, Direction::Both] {
            assert_eq!(Shape::alone(3, 1, direction).losers(), [1]);
        }
        assert_eq!(Shape::split(5, &[&[0, 3], &[1, 2, 4]]).losers(), [0, 3]);
        assert_eq!(Shape::split(5, &[&[0, 3], &[1, 2], &[4]]).losers(), [0, 1, 2, 3, 4]);
        assert_eq!(Shape::split(3, &[&[0], &[1], &[2]]).winners(), [0_usize; 0]);
    }

    #[test]
    fn with_a_bridge_everybody_has_a_way_to_a_quorum() {
        for servers in [3, 5] {
            assert_eq!(Shape::bridge(servers, 2).losers(), [0_usize; 0]);
            assert_eq!(Shape::bridge(servers, 2).reach(2).len(), servers);
        }
    }
}
