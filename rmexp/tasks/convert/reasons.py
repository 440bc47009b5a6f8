"""Why a key of TRL or Axolotl has no counterpart, or needs none."""

NO_NEED = "needs no counterpart: "


REASONS = (
    (
        "output_dir overwrite_output_dir logging_dir",
        NO_NEED + "a run has a directory of its own in outputs/",
    ),
    (
        "save_* saves_per_epoch",
        NO_NEED + "the best weights are kept, and a checkpoint to resume from",
    ),
    ("logging_* log_* disable_tqdm *tensorboard", NO_NEED + "every step is in metrics.jsonl"),
    (
        "load_in_8bit load_in_4bit bnb_* use_bnb_* gptq* quantization* qat",
        "weights are kept in fp32, without quantisation",
    ),
    (
        "dtype torch_dtype bf16_full_eval bfloat16",
        "weights are kept in fp32; trainer.precision=bf16-mixed computes in bf16",
    ),
    ("fp16 float16", "there is no fp16: trainer.precision is auto, bf16-mixed or 32-true"),
    (
        "deepspeed fsdp* ddp* parallelism_config accelerator_config local_rank world_size "
        "*_parallel_size *_parallel_degree device_map max_memory gpu_memory_limit",
        "a run trains on one device",
    ),
    ("push_to_hub hub_*", "upload the export by hand: hf upload NAME RUN/export"),
    ("report_to use_mlflow mlflow_* use_comet comet_* project", "logger is wandb or none"),
    ("wandb_*", "logger=wandb has project, entity, mode and tags"),
    ("resume_from_checkpoint auto_resume_from_checkpoints", "resume=RUN goes on with a run"),
    (
        "group_by_length train_sampling_strategy length_column_name *sample_pack* pad_to_* "
        "*batch_flattening auto_find_batch_size torch_empty_cache_steps activation_offloading "
        "gradient_checkpointing_kwargs eval_accumulation_steps per_device_eval_batch_size "
        "eval_batch_size",
        NO_NEED + "data.micro_batch_tokens bounds the memory, and never changes the update",
    ),
    (
        "*_attention *liger* unsloth_* torch_compile_* lora_*_kernel use_cache tf32",
        NO_NEED + "model.layout chooses the kernels (there is model.compile=true)",
    ),
    ("lora_task_type", NO_NEED + "beside LoRA's matrices the head trains, always"),
    (
        "lora_* use_rslora use_dora peft* qlora* loraplus_* relora*",
        "tune=lora has rank, alpha, dropout and target_modules",
    ),
    (
        "model_type tokenizer_type processor_type num_labels is_*_derived_model",
        NO_NEED + "it is told from the model, which gets one reward head",
    ),
    (
        "dataset_num_proc dataset_processes dataset_prepared_path dataloader_* "
        "dataset_keep_in_memory remove_unused_columns train_on_inputs strict",
        NO_NEED + "rows are read once and cached as tokens",
    ),
    (
        "special_tokens tokens pad_token eos_token added_tokens_overrides",
        "the tokenizer keeps its tokens, and gets a pad token where it has none",
    ),
    ("adam_epsilon adam_epsilon2 adam_beta3", "AdamW's epsilon is 1e-8, and it has two betas"),
    ("lr_scheduler_kwargs cosine_*", "cosine and linear fall to 0"),
    ("lr_groups embedding_lr* lr_quadratic_warmup optim_*", "there are optim.lr and optim.head_lr"),
    (
        "label_smoothing_factor",
        "the peers' reward trainer does not read it; here it would be loss.label_smoothing",
    ),
    ("use_cpu", "set trainer.accelerator=cpu"),
    ("neftune_noise_alpha", "there is no noise on embeddings"),
    ("dataset_*_split dataset_config", "TRL ignores it beside datasets"),
    ("test_split_size", "see data.val_share"),
    ("greater_is_better", NO_NEED + "it is told from the metric"),
    ("eval_delay eval_on_start", "validations are spread evenly, the last one at the end"),
    ("shuffle_merged_datasets data_seed", "rows are shuffled anew each epoch, by seed"),
    ("dataset_streaming streaming", NO_NEED + "tokens lie on the disk, not in memory"),
)
"""Patterns of keys, apart by blanks, and what to say of a key that fits one; the first counts."""
