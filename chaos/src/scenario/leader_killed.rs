//! The leader dies, three times; what it acknowledged must be there, and it must be able to return.

use anyhow::Result;

use super::Stage;

pub async fn hurt(stage: &mut Stage) -> Result<()> {
    for _ in 0..3 {
        stage.calm(500..1200).await;
        let leader = stage.leader().await?;
        stage.kill(leader).await?;
        let gap = stage.next_write().await?;
        stage.remark(format!(
            "server {leader} led and was killed; the next write began and was taken within {gap:.1?}"
        ));
        stage.calm(200..800).await;
        stage.start(leader).await?;
    }
    Ok(())
}
