//! Faults to choose from at random, for two at once and for long runs.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;

use super::Stage;
use super::shape::{Direction, Shape};
use crate::cluster::{Cluster, ServerId};
use crate::disk::Faults;
use crate::observe::FaultTicket;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Pause,
    PowerCut,
    SlowDisk,
    Loss,
    SlowLink,
    Resets,
}

const ALL: [Fault; 7] = [
    Fault::Kill,
    Fault::Pause,
    Fault::PowerCut,
    Fault::SlowDisk,
    Fault::Loss,
    Fault::SlowLink,
    Fault::Resets,
];

/// A fault in force at one server.
pub struct Inflicted {
    fault: Fault,
    server: ServerId,
    ticket: FaultTicket,
}

pub fn any(stage: &mut Stage) -> Fault {
    ALL[stage.random.random_range(0..ALL.len())]
}

/// A shape at random around the leader, or not.
pub async fn shape(stage: &mut Stage) -> Result<Shape> {
    let (servers, leader) = (stage.members.len(), stage.leader().await?);
    let server = if stage.random.random_bool(0.6) { leader } else { stage.random.random_range(0..servers) };
    Ok(match stage.random.random_range(0..5) {
        0 => Shape::alone(servers, server, Direction::Deaf),
        1 => Shape::alone(servers, server, Direction::Mute),
        2 => Shape::bridge(servers, server),
        _ => Shape::alone(servers, server, Direction::Both),
    })
}

pub async fn inflict(stage: &mut Stage, fault: Fault, server: ServerId) -> Result<Inflicted> {
    let ticket = stage.hurt(format!("server {server}: {fault:?}"));
    match fault {
        Fault::Kill => stage.cluster.kill(server).await?,
        Fault::Pause => stage.cluster.pause(server).await?,
        Fault::PowerCut => {
            let seed = stage.random.random();
            stage.cluster.cut_power(server, seed).await?;
        }
        Fault::SlowDisk => {
            let per_sync = Duration::from_millis(stage.random.random_range(5..80));
            stage.cluster.disk(server)?.set(Faults { per_sync, ..Faults::default() });
        }
        Fault::Loss => stage.cluster.lose(server, stage.random.random_range(2..20))?,
        Fault::SlowLink => drop(stage.cluster.slow_link(server, true)?),
        Fault::Resets => stage.cluster.reset_connections(server).await?,
    }
    Ok(Inflicted { fault, server, ticket })
}

pub async fn undo(stage: &Stage, inflicted: Inflicted) -> Result<()> {
    let Inflicted { fault, server, ticket } = inflicted;
    match fault {
        Fault::Kill | Fault::PowerCut => stage.start(server).await?,
        Fault::Pause => stage.cluster.resume(server).await?,
        Fault::SlowDisk => stage.cluster.disk(server)?.set(Faults::default()),
        Fault::Loss => stage.cluster.lose(server, 0)?,
        Fault::SlowLink => drop(stage.cluster.slow_link(server, false)?),
        Fault::Resets => {}
    }
    stage.healed(ticket);
    Ok(())
}
