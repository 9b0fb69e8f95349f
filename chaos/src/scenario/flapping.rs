//! A server is cut off and back, again and again, faster than elections settle. Pre-vote keeps it from unseating leaders that
//! the others hear; whatever happens, writes go on in the end.

use anyhow::Result;

use super::Stage;
use super::shape::{Direction, Shape};

pub async fn hurt(stage: &mut Stage) -> Result<()> {
    let servers = stage.members.len();
    for around_leader in [true, false] {
        let server = if around_leader { stage.leader().await? } else { stage.follower().await? };
        for round in 0..8 {
            let direction = [Direction::Both, Direction::Deaf, Direction::Mute][round % 3];
            stage.partition(&Shape::alone(servers, server, direction)).await?;
            stage.calm(100..900).await;
            stage.mend()?;
            stage.calm(100..700).await;
        }
        stage.remark(format!("server {server} was cut off and back eight times"));
        stage.recovered().await?;
    }
    Ok(())
}
