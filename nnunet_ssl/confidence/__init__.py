"""From the samples of a case to voxel confidence, case scores and the order of the pool; pure numpy, one case in memory."""
