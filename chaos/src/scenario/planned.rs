//! What operators do on a good day: stop a server, or restart them all one after the other.

use std::time::Duration;

use anyhow::Result;

use super::Stage;
use crate::history::Outcome;

/// The leader is told to stop, three times: leadership is handed over first, so that writes sent elsewhere do not fail.
pub async fn stop(stage: &mut Stage) -> Result<()> {
    for _ in 0..3 {
        stage.calm(800..1500).await;
        let leader = stage.leader().await?;
        let (from, ticket) =
            (stage.traffic.recorder.now(), stage.hurt(format!("server {leader} is stopped (SIGTERM)")));
        stage.cluster.stop(leader).await?;
        stage.calm(300..600).await;
        stage.healed(ticket);
        let elsewhere: Vec<_> = stage
            .traffic
            .recorder
            .operations()
            .into_iter()
            .filter(|operation| {
                operation.invoked > from && operation.server.is_some_and(|server| server != leader)
            })
            .filter(|operation| !operation.action.is_read())
            .collect();
        let failed = elsewhere.iter().filter(|operation| {
            matches!(operation.outcome, Outcome::Refused(_))
                || (operation.is_unknown() && operation.returned.is_some())
        });
        let failed = failed.count();
        let took =
            |operation: &crate::history::Operation| operation.returned.map(|at| at - operation.invoked);
        let longest = elsewhere.iter().filter_map(took).max().unwrap_or(Duration::ZERO);
        stage.remark(format!(
            "server {leader} led and was told to stop; of {} writes to others {failed} failed, the longest took {longest:.1?}",
            elsewhere.len()
        ));
        stage.start(leader).await?;
        stage.recovered().await?;
    }
    Ok(())
}

/// Every server in turn, the leader last.
pub async fn rolling_restart(stage: &mut Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let mut order = stage.others(&[leader]);
    order.push(leader);
    let begun = stage.traffic.recorder.now();
    for server in order {
        let ticket = stage.hurt(format!("server {server} is restarted"));
        stage.cluster.stop(server).await?;
        stage.start(server).await?;
        stage.healed(ticket);
        stage.recovered().await?;
    }
    let mut taken: Vec<Duration> = stage
        .traffic
        .recorder
        .operations()
        .iter()
        .filter(|operation| operation.is_acknowledged_write())
        .filter_map(|operation| operation.returned)
        .filter(|returned| *returned > begun)
        .collect();
    taken.sort();
    let silence = taken.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    stage.remark(format!(
        "all servers were restarted in turn; the longest time without a write was {silence:.1?}"
    ));
    Ok(())
}
