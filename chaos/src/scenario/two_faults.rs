//! Two things go wrong at once, at one server or at two, with the network whole or broken; and again, and again.

use anyhow::Result;
use rand::Rng;

use super::{Stage, menu};

/// Four times.
pub async fn hurt(stage: &mut Stage) -> Result<()> {
    rounds(stage, 4).await
}

/// For as long as a long run's cluster lives.
pub async fn mixed(stage: &mut Stage) -> Result<()> {
    let rounds = stage.random.random_range(5..12);
    self::rounds(stage, rounds).await
}

async fn rounds(stage: &mut Stage, count: usize) -> Result<()> {
    for _ in 0..count {
        stage.calm(300..1000).await;
        let leader = stage.leader().await?;
        let other = stage.any_of(&stage.others(&[leader]));
        let (one, two) = (menu::any(stage), menu::any(stage));
        let shape = if stage.random.random_bool(0.4) { Some(menu::shape(stage).await?) } else { None };
        let mut text = format!("server {leader}: {one:?}; server {other}: {two:?}");
        let first = menu::inflict(stage, one, leader).await?;
        stage.calm(0..600).await;
        let second = menu::inflict(stage, two, other).await?;
        if let Some(shape) = &shape {
            text += &format!("; {}", shape.what);
            stage.partition(shape).await?;
        }
        stage.calm(300..3000).await;
        // In either order.
        let (first, second) = if stage.random.random_bool(0.5) { (first, second) } else { (second, first) };
        menu::undo(stage, first).await?;
        stage.calm(0..600).await;
        stage.mend()?;
        menu::undo(stage, second).await?;
        stage.remark(text);
        stage.recovered().await?;
    }
    Ok(())
}
