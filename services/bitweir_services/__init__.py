"""The sites: engines, tiers, link and API. Importing this package loads none of torch, ray or vllm."""
