"""What other libraries call things, and what is written here: names of Keras, PyTorch, Lightning, fastai, skorch,
scikit-learn, Optax, XGBoost. Tables alone, of which choose (errors.py) and suggestions.py make sentences.

A row is what to write, and the names that stand for it. What to write is a name; an argument, as "epochs=100"; or code,
in which net, layer, trainer, optimizer and history are the reader's. A remark may follow after ": ". "leave it out" is
where nothing takes its place. A name may stand in several rows: the first one that can be written is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Names = Mapping[str, str]

VALUES: Names = {
    "mean_squared_error": "mse l2 regsquarederror", "absolute_error": "mae l1 meanabsoluteerror regabsoluteerror",
    "huber": "smoothl1 pseudohuber", "quantile": "pinball", "quantile_loss": "pinball", "poisson": "poissonnll",
    "cross_entropy":
        "ce nll logits logloss categoricalcrossentropy sparsecategoricalcrossentropy softmaxcrossentropy multisoftmax",
    "binary_cross_entropy":
        "bce bcewithlogits sigmoidcrossentropy sigmoidbinarycrossentropy binarylogistic logistic logloss",
    "focal": "sigmoidfocal sigmoidfocalcrossentropy binaryfocalcrossentropy categoricalfocalcrossentropy",
    "silu": "swish hardswish hardsilu", "identity": "linear none", "sigmoid": "logistic expit hardsigmoid",
    "tanh": "hardtanh", "softmax": "logsoftmax", "exp": "exponential", "relu": "relu6 rectify",
    "leaky_relu": "lrelu prelu rrelu", "gelu_tanh": "gelunew gelufast gelupytorchtanh", "elu": "celu",
    "sgd": "gd momentum nesterov", "adamw": "adamweightdecay adamwtorch", "rmsprop": "rms",
    "gb.fit_lbfgs(net, x, y)": "lbfgs",
    "glorot_uniform": "glorot xavier xavieruniform", "glorot_normal": "xaviernormal",
    "he_uniform": "he kaiming kaiminguniform", "he_normal": "kaimingnormal", "lecun_normal": "lecun", "zeros": "zero",
    "accuracy": "acc accuracyscore binaryaccuracy categoricalaccuracy sparsecategoricalaccuracy",
    "top_5_accuracy": "topkaccuracy topkcategoricalaccuracy", "f1": "f1score fscore fbeta", "r2": "r2score",
    "f1_macro": "macrof1", "f1_weighted": "weightedf1", "balanced_accuracy": "balancedaccuracyscore",
    "roc_auc": "auc auroc aucroc rocaucscore", "average_precision": "aucpr prauc auprc map averageprecisionscore",
    "log_loss": "logloss nll neglogloss mlogloss", "brier_score": "brier brierscoreloss", "calibration_error": "ece",
    "rmse": "mse meansquarederror rootmeansquarederror", "mae": "l1 meanabsoluteerror absoluteerror",
    "constant": "constantlr", "step": "steplr multisteplr", "linear": "linearlr lineardecay",
    "exponential": "exponentiallr exponentialdecay", "polynomial": "polynomiallr polynomialdecay polylr",
    "cosine": "cosineannealing cosineannealinglr cosinedecay cosinedecayschedule", "one_cycle": "onecycle onecyclelr",
    "gb.Cosine(period=0.25)": "cosineannealingwarmrestarts cosinedecayrestarts cosinewithrestarts sgdr",
    "gb.Warmup(0.1)": "warmup linearwarmup constantwithwarmup", "gb.Warmup(0.1, 'cosine')": "warmupcosine cosinewarmup",
    "trainer.fit(x, y, callbacks=[gb.ReduceOnPlateau()])": "reducelronplateau plateau adaptive",
}  # fmt: skip
"""Names of losses, activations, optimizers, initializers, metrics and schedules, in small letters and digits alone."""

ARGUMENTS: Names = {
    "learning_rate=0.01": "lr eta eta0 rate base_lr max_lr init_lr initial_learning_rate learning_rate_init step_size",
    "momentum=0.9": "mom mu", "nesterov=True": "nesterovs_momentum use_nesterov",
    "beta1=0.9": "beta_1 b1 adam_beta1 mom", "beta2=0.999": "beta_2 b2 adam_beta2 sqr_mom",
    "beta1=0.9, beta2=0.999": "betas", "epsilon=1e-8": "eps adam_epsilon",
    "weight_decay=0.01": "wd decoupled_weight_decay", "l2=0.0001": "alpha reg_lambda l2_reg l2_regularization lambda_",
    "l1=0.0001": "reg_alpha l1_reg",
    "schedule='cosine'": "scheduler lr_scheduler lr_schedule lr_scheduler_type learning_rate_schedule",
    "epochs=100": "n_epoch n_epochs nb_epoch nb_epochs num_epochs max_epochs num_train_epochs epoch max_iter n_iter",
    "iterations=200": "max_iter maxiter n_iter epochs max_epochs", "tolerance=1e-5": "tol gtol tolerance_grad",
    "memory=10": "history_size maxcor memory_size",
    "batch_size=128": "bs batch minibatch_size mini_batch_size train_batch_size per_device_train_batch_size",
    "seed=0": "random_state random_seed rng generator rand_seed data_seed",
    "x":
        "X inputs input data features train_data dataset train_dataloaders train_dataloader train_loader train_ds "
        "train_dl train_dataset",
    "y": "Y target targets label labels y_true",
    "eval_set=(X, y)":
        "validation_data validation val_data valid_data eval_dataset validation_split X_val x_val valid_ds val_set",
    "sample_weight=w": "weights sample_weights weight",
    "random_state=0": "seed random_seed",
    "weights=w": "sample_weight sample_weights weight row_weights",
    "validation=(x, y)":
        "validation_data valid_data val_data eval_set valid_set valid_sets validation_set val_set val valid "
        "val_dataloaders val_dataloader val_loader val_ds valid_ds valid_dl valid_loader eval_dataset evals X_val "
        "y_val x_val",
    "validation_split=0.1": "validation_fraction train_split val_split valid_pct test_size validation_size",
    "patience=10": "n_iter_no_change early_stopping_rounds stopping_rounds rounds n_iter_without_progress",
    "early_stopping=gb.EarlyStopping(patience=10)":
        "patience n_iter_no_change early_stopping_rounds early_stop min_delta monitor restore_best_weights",
    "progress=False": "verbose verbosity disable_tqdm silent enable_progress_bar progress_bar show_progress",
    "callbacks=[f]": "callback cbs", "metrics=['accuracy']": "scoring eval_metric metric compute_metrics scorer",
    "csv='history.csv'": "log_file csv_path log history_file", "class_weight='balanced'": "class_weights pos_weight",
    "loss='cross_entropy'": "criterion loss_fn loss_func loss_function objective error",
    "optimizer=gb.Adam(0.001)": "optim opt opt_func optimizers solver optimizer_fn",
    "network=net": "model module learner", "net": "model module network obj",
    "clip_norm=1.0": "clipnorm global_clipnorm gradient_clip_val max_grad_norm grad_clip gradient_clip max_norm",
    "clip_value=1.0": "clipvalue", "average=0.999": "ema use_ema ema_momentum ema_decay swa average_decay",
    "accumulate=4": "accumulate_grad_batches gradient_accumulation_steps accumulation_steps n_acc",
    "folds=5": "cv n_splits n_folds",
    "units=10": "out_features output_dim neurons n_units size hidden_size n_out num_outputs",
    "activation='relu'": "act act_layer act_cls activation_fn nonlinearity f",
    "bias=False": "use_bias fit_intercept has_bias with_bias",
    "init='he_normal'": "kernel_initializer initializer weight_init kernel_init w_init weight_initializer",
    "trainable=False": "frozen freeze requires_grad", "max_norm=3.0": "kernel_constraint weight_constraint",
    "rate=0.5": "p ps drop drop_prob dropout dropout_rate prob",
    "label_smoothing=0.1": "smoothing label_smoothing_factor",
    "reduction='mean'": "size_average reduce", "delta=1.0": "beta", "q=0.9": "quantile tau alpha level",
    "inputs=20": "input_shape input_dim input_size in_features n_features num_features n_inputs n_in in_channels",
    "min_delta=0.0001": "tol threshold delta", "minimum=1e-6": "min_lr",
    "restore_best=True": "restore_best_weights load_best load_best_model_at_end save_best",
    "mode='min'": "lower_is_better comp maximize greater_is_better",
    "best=True": "save_best_only save_best monitor load_best load_best_model_at_end",
    "keep=3": "save_top_k max_to_keep save_total_limit max_keep",
    "every_steps=1000": "save_freq save_steps every_n_train_steps save_interval_steps",
    "every_seconds=600": "train_time_interval save_interval_secs",
    "folder":
        "filepath dirpath dirname path dir directory log_dir logdir output_dir save_dir filename default_root_dir "
        "checkpoint_dir root ckpt_path",
    "path": "filepath filename file fname f save_dir model_path", "device='cuda'": "map_location",
    "dtype='bfloat16'": "precision amp fp16 bf16 mixed_precision torch_dtype",
    "factor=0.1": "gamma decay_rate", "every=10": "step_size decay_steps transition_steps",
    "period=1.0": "T_max T_0 decay_steps t_initial", "multiplier=2.0": "T_mult t_mul",
    "end=0.01": "alpha eta_min end_value end_learning_rate min_lr final_div_factor end_factor lr_min",
    "rise=0.3": "pct_start warmup_ratio", "start=0.04": "div_factor start_factor init_value",
    "length=0.1": "warmup warmup_steps num_warmup_steps warmup_epochs total_iters warmup_ratio",
    "classes=10": "num_classes n_classes depth", "runs=30": "n repeats number", "lowest=1e-7": "start_lr min_lr",
    "highest=1.0": "end_lr max_lr", "steps=100": "num_it num_training num_iter",
    "coverage=0.9": "alpha confidence level",
}  # fmt: skip
"""Arguments of whatever takes the one that is written here."""

ARGUMENTS_OF: Mapping[str, Names] = {
    "BaseMLP": {
        "learning_rate_init=0.01": "lr learning_rate_ eta rate",
        "max_iter=200": "epochs n_epochs num_epochs max_epochs",
        "hidden_layer_sizes=(100,)": "hidden hidden_units hidden_dims layers units n_hidden",
        "solver='adamw'": "optimizer optim", "alpha=0.0001": "weight_decay wd l2",
        "early_stopping=True, n_iter_no_change=10": "patience",
        "learning_rate='cosine'": "schedule scheduler lr_scheduler",
        "gb.TabularClassifier(recipe='tabular')": "recipe settings",
    },
    "Tabular": {
        "settings={'learning_rate': 0.01}": "lr learning_rate learning_rate_init",
        "settings={'layers': (64, 64)}": "hidden_layer_sizes layers hidden units",
        "settings={'dropout': 0.3}": "dropout", "settings={'activation': 'relu'}": "activation",
        "settings={'batch_size': 256}": "batch_size", "epochs=100": "max_iter n_epochs num_epochs max_epochs",
        "settings={'patience': 20}": "patience n_iter_no_change",
    },
    "BaseMLP.fit": {
        "gb.MLPClassifier(max_iter=100)": "epochs n_epochs", "gb.MLPClassifier(verbose=True)": "verbose progress",
    },
    "PopulationSearchCV": {
        "param_grid={'alpha': [0.01, 0.1]}": "param_distributions param_space search_spaces space params",
        "n_iter=60": "n_trials trials n_candidates num_samples", "cv=5": "folds n_folds n_splits",
        "scoring='accuracy'": "metric metrics",
        "strategy='halving'": "resource min_resources max_resources factor aggressive_elimination",
        "leave it out: networks share the cores by themselves": "n_jobs pre_dispatch",
    },
    "cross_validate": {
        "seeds=3": "random_state repeats n_repeats", "sample_weight=w": "params fit_params",
        "cv=5": "folds n_folds n_splits",
        "leave it out: networks share the cores by themselves": "n_jobs pre_dispatch",
    },
    "Trainer": {
        "optimizer=gb.Adam(0.01)": "lr learning_rate learning_rate_init eta0 optimizer__ optimizer__lr base_lr",
        "optimizer=gb.AdamW(0.001, weight_decay=0.01)": "weight_decay wd optimizer__weight_decay",
        "optimizer=gb.Adam(0.001, l2=0.0001)": "l2 alpha", "optimizer=gb.Adam(0.001, l1=0.0001)": "l1",
        "optimizer=gb.SGD(0.1, momentum=0.9)": "momentum optimizer__momentum",
        "optimizer=gb.SGD(0.1, momentum=0.9, nesterov=True)": "nesterov nesterovs_momentum",
        "optimizer=gb.Adam(0.001, beta1=0.9, beta2=0.999)": "betas beta1 beta2 beta_1 beta_2",
        "optimizer=gb.Adam(0.001, schedule='cosine')": "schedule scheduler lr_scheduler lr_scheduler_type power_t",
        "gb.fit_lbfgs(net, x, y, iterations=200)": "max_fun",
        "loss=gb.Huber(1.0): numbers of a loss are given to it": "criterion__ loss__ delta label_smoothing",
        "gb.Network(20, [gb.Dense(100, 'relu'), gb.Dense(10, 'softmax')])":
            "module__ model__ layers hidden_layer_sizes hidden activation units n_layers",
        "gb.Network(20, layers, device='cuda')": "device accelerator devices gpus use_cpu use_cuda",
        "gb.Network(20, layers, dtype='bfloat16')": "dtype precision amp fp16 bf16 mixed_precision",
        "gb.Network(20, layers, tf32=True)": "tf32",
        "trainer.fit(x, y, epochs=100)":
            "epochs n_epochs nb_epoch num_epochs max_epochs num_train_epochs max_iter n_iter max_steps iterations",
        "trainer.fit(x, y, validation=(x, y))":
            "validation validation_data valid_data eval_set val_data val_dataloaders eval_dataset",
        "trainer.fit(x, y, validation_split=0.1)": "validation_split validation_fraction train_split",
        "trainer.fit(x, y, early_stopping=True)":
            "early_stopping patience n_iter_no_change early_stopping_rounds tol load_best_model_at_end",
        "trainer.fit(x, y, callbacks=[f])": "callbacks cbs callbacks__ logger report_to",
        "trainer.fit(x, y, callbacks=[gb.Checkpoint('folder')])":
            "checkpoint default_root_dir output_dir enable_checkpointing save_strategy save_steps save_total_limit",
        "trainer.fit(x, y, progress=False)": "progress verbose enable_progress_bar disable_tqdm",
        "trainer.fit(x, y, shuffle=False)": "shuffle iterator_train__shuffle",
        "trainer.fit(x, y, class_weight='balanced')": "class_weight criterion__weight class_weights pos_weight",
        "trainer.fit(x, y, weights=w)": "weights sample_weight",
        "batch_size=128": "iterator_train__ iterator_valid__ batch_size_eval per_device_eval_batch_size",
        "leave it out: a further trainer.fit goes on where the last one ended": "warm_start",
        "leave it out: data of NumPy are handed over as they are":
            "iterator_train iterator_valid num_workers n_jobs dataloader_num_workers pin_memory drop_last",
        "leave it out: the same seed gives the same bits": "deterministic full_determinism benchmark",
        "leave it out: what can be compiled is": "compile jit_compile torch_compile",
    },
    "Trainer.fit": {
        "trainer.batch_size = 128": "batch_size bs validation_batch_size",
        "trainer.optimizer.learning_rate = 0.01": "lr learning_rate lr_max learning_rate_init",
        "trainer.optimizer.schedule = 'cosine'": "schedule scheduler lr_scheduler",
        "gb.Trainer(net, seed=0)": "seed random_state", "trainer.metrics = ['accuracy']": "metrics eval_metric scoring",
        "gb.Trainer(net, loss='cross_entropy')": "loss criterion loss_fn objective",
        "gb.Trainer(net, optimizer=gb.AdamW(0.001, weight_decay=0.01))": "optimizer optim weight_decay wd",
        "gb.Trainer(net, clip_norm=1.0)": "clip_norm clipnorm max_grad_norm gradient_clip_val",
        "gb.Network(20, layers, device='cuda')": "device",
        "callbacks=[gb.Checkpoint('folder')]": "checkpoint save_path checkpoint_dir",
        "callbacks=[gb.TensorBoard('folder')]": "tensorboard log_dir logger",
        "trainer.resume('folder')": "ckpt_path resume_from_checkpoint resume checkpoint_path",
        "gb.load(path)": "xgb_model init_model",
        "leave it out: a further fit numbers its epochs on": "initial_epoch reset reset_opt start_epoch",
        "leave it out: an epoch takes every row once": "steps_per_epoch validation_steps max_steps drop_last",
        "leave it out: validation data are measured after every epoch": "validation_freq eval_steps",
        "leave it out: the data are handed over as they are": "workers max_queue_size use_multiprocessing num_workers",
        "leave it out: labels that are integers are classes": "classes",
    },
    "Trainer.evaluate": {
        "trainer.batch_size = 128": "batch_size", "leave it out": "verbose progress steps callbacks",
        "leave it out: the result is a dict": "return_dict",
    },
    "Network": {
        "layers=[gb.Dense(100, 'relu'), gb.Dense(10, 'softmax')]":
            "hidden_layer_sizes hidden hidden_dims hidden_size hidden_units units n_layers num_layers activation "
            "outputs output_dim output_size out_features n_outputs n_classes num_classes out_activation classes",
        "layers=[gb.Dense(100, 'relu'), gb.Dropout(0.5), gb.Dense(10, 'softmax')]": "dropout dropout_rate p ps",
        "seed=[0, 1, 2]: a member for each": "members models n_models n_members ensemble_size n_estimators ensemble",
        "gb.Trainer(net, 'cross_entropy')": "loss criterion loss_fn",
        "gb.Dense(100, 'relu', bias=False)": "bias use_bias",
        "gb.Trainer(net, optimizer=gb.Adam(0.001))": "optimizer lr learning_rate",
        "gb.Dense(100, 'relu', init='he_normal')": "init kernel_initializer initializer",
        "gb.Trainer(net, batch_size=128)": "batch_size", "leave it out": "name",
    },
    "Network.predict": {
        "leave it out": "verbose progress callbacks steps num_workers",
        "leave it out: the output is that of the last activation": "raw output_margin return_proba proba",
        "gb.load(path, device='cuda')": "device", "net.predict_interval(x)": "return_std interval coverage",
    },
    "Network.forward": {"training=True": "train is_training", "leave it out": "deterministic"},
    "Layer": {
        "gb.Network(inputs=20, layers=[gb.Dense(10)])":
            "inputs input_shape input_dim in_features input_size n_in batch_input_shape",
        "gb.Network(20, layers, dtype='float64')": "dtype", "gb.Network(20, layers, device='cuda')": "device",
        "gb.Network(20, layers, seed=0)": "seed", "leave it out": "name inplace noise_shape",
        "gb.Adam(0.001, l2=0.0001)": "kernel_regularizer l2 weight_regularizer activity_regularizer",
        "gb.AdamW(0.001, weight_decay=0.01)": "weight_decay",
        "penalty_factor={'bias': 1.0}": "bias_regularizer",
        "leave it out: b begins at 0": "bias_initializer bias_init",
    },
    "Dense": {"gb.Dropout(0.5): a layer of its own": "dropout dropout_rate p"},
    "Dropout": {"rate=0.5: the share that is dropped": "keep_prob"},
    "Optimizer": {
        "gb.Trainer(net, optimizer=gb.Adam(0.001))": "params parameters model network",
        "gb.Trainer(net, clip_norm=1.0)": "clip_norm clipnorm global_clipnorm max_grad_norm",
        "gb.Trainer(net, clip_value=1.0)": "clipvalue", "gb.Trainer(net, average=0.999)": "use_ema ema_momentum",
        "gb.Trainer(net, accumulate=4)": "gradient_accumulation_steps",
        "schedule='cosine'": "lr_decay power_t decay_steps", "beta1=0.9": "momentum",
        "leave it out": "name foreach fused capturable jit_compile loss_scale_factor mu_dtype accumulator_dtype",
    },
    "RMSprop": {"decay=0.9": "alpha rho"},
    "Loss": {
        "leave it out: the activation of the last layer decides, as in gb.Dense(10, 'softmax')": "from_logits",
        "leave it out": "name axis dim full dtype",
        "gb.Poisson(): the last layer's activation decides, gb.Dense(1, 'exp')": "log_input",
        "trainer.fit(x, y, class_weight='balanced')": "weight class_weight pos_weight class_weights loss_weights",
        "trainer.fit(x, y, weights=w): 0 for rows that do not count": "ignore_index",
    },
    "EarlyStopping": {
        "gb.Checkpoint('folder', best=True)": "save_best", "leave it out": "verbose sink strict check_finite",
        "leave it out: it waits for patience epochs": "start_from_epoch baseline",
    },
    "ReduceOnPlateau": {"leave it out": "verbose eps threshold_mode"},
    "Checkpoint": {
        "best='val_accuracy'": "monitor metric", "gb.save(path, net)": "save_weights_only",
        "leave it out: it writes after every epoch": "every_n_epochs period save_last event_name",
        "leave it out": "verbose mode save_on_train_epoch_end",
    },
    "Schedule": {
        "gb.Adam(0.001, schedule='cosine')": "optimizer base_lr initial_learning_rate init_value lr learning_rate",
        "gb.Adam(0.01, schedule='one_cycle'): the learning rate is the peak": "max_lr peak_value",
        "leave it out: the fit says how many steps there are":
            "total_steps epochs steps_per_epoch total_iters max_epochs",
        "leave it out": "last_epoch verbose name cycle_momentum base_momentum max_momentum three_phase",
    },
    "Cosine": {"gb.Warmup(0.1, 'cosine')": "warmup warmup_steps warmup_target num_warmup_steps"},
    "StepDecay": {"leave it out: it falls in steps": "staircase"},
    "load": {"leave it out: a model file holds data, never code": "weights_only custom_objects safe_mode compile"},
    "save": {"leave it out: a file already there is replaced": "overwrite", "leave it out": "save_format"},
    "search": {
        "space={'learning_rate': [0.01, 0.001]}": "param_grid param_distributions params search_space hyperparameters",
        "trials=50": "n_iter n_trials max_trials num_samples n_candidates", "metric='accuracy'": "scoring objective",
        "layers=[gb.Dense(100, 'relu'), gb.Dense(10, 'softmax')]": "estimator model net hypermodel hidden_layer_sizes",
        "leave it out: candidates train side by side": "n_jobs pre_dispatch max_concurrent_trials",
        "leave it out: the result has fit_best": "refit",
    },
    "fit_lbfgs": {"leave it out: a line search finds the steps": "lr learning_rate line_search_fn"},
}  # fmt: skip
"""Arguments of one thing, or of a class and those below it; asked before ARGUMENTS. A name that ends with "__" stands
for all that begin with it."""

ATTRIBUTES: Mapping[str, Names] = {
    "Trainer": {
        "trainer.optimizer.learning_rate": "lr learning_rate eta", "trainer.optimizer.schedule": "schedule scheduler",
        "trainer.fit(x, y, epochs=100)":
            "epochs max_epochs n_epochs num_epochs max_iter train fit_one_cycle partial_fit",
        "trainer.optimizer": "optimiser optim opt optimizer_",
        "trainer.step(x, y)": "train_on_batch train_step", "trainer.network": "model module net module_ model_",
        "trainer.loss": "criterion criterion_ loss_fn", "trainer.history": "history_ logger",
        "trainer.history['loss']": "loss_curve_ losses", "trainer.history.best_epoch": "best_epoch best_epoch_",
        "trainer.evaluate(x, y)": "score test validate test_on_batch get_test_score",
        "trainer.network.predict(x)": "predict predict_proba forward get_preds predict_step",
        "trainer.find_learning_rate(x, y)": "lr_find range_test",
        "gb.save(path, trainer)": "save save_model save_checkpoint save_params export save_weights",
        "gb.load(path)": "load load_model load_params load_weights load_state_dict",
        "trainer.network.parameters": "weights parameters state_dict get_weights coefs_",
        "trainer.network.summary()": "summary", "gb.Trainer(net, 'cross_entropy')": "compile",
        "trainer.fit(x, y, callbacks=[f])": "callbacks add_callback",
    },
    "Network": {
        "gb.Trainer(net).fit(x, y)": "fit train_on_batch fit_generator partial_fit", "gb.Trainer(net)": "compile",
        "gb.Trainer(net).evaluate(x, y)": "evaluate score test",
        "net.predict(x)": "predict_proba eval train predict_on_batch call apply transform",
        "net.predict_labels(x)": "predict_classes",
        "gb.Network(20, layers, device='cuda'), or gb.load(path, device='cuda')": "to cuda cpu to_device",
        "net.copy(dtype='float64')": "half float double bfloat16 astype",
        "net.parameters":
            "weights get_weights set_weights state_dict load_state_dict trainable_variables variables params",
        "net.layers[0].weight, net.layers[0].bias": "coefs_ intercepts_ W b weight bias",
        "net.parameter_arrays()": "named_parameters", "net.layers": "modules children named_modules get_layer",
        "net.layers[0].trainable = False": "requires_grad_ trainable freeze",
        "net.inputs": "input_shape n_features_in_",
        "net.outputs": "output_shape n_outputs_", "net.summary()": "count_params n_parameters num_parameters",
        "gb.save(path, net)": "save save_model save_weights to_json", "gb.load(path)": "load load_model load_weights",
        "gb.Network(20, [*net.layers, gb.Dense(10)])": "add append pop",
        "net.backward(grad_y)": "zero_grad", "net.classes": "classes_",
    },
    "Layer": {
        "layer.weight": "kernel W w coef_ coefs_ get_weights set_weights", "layer.bias": "b intercept_",
        "layer.inputs": "in_features input_dim", "layer.units": "out_features output_dim", "layer.rate": "p drop_prob",
        "layer.trainable": "requires_grad frozen", "layer.grad_weight": "grad",
        "layer.penalty_factor": "kernel_regularizer",
    },
    "Optimizer": {
        "optimizer.learning_rate": "lr rate eta param_groups", "optimizer.schedule": "scheduler lr_scheduler",
        "optimizer.epsilon": "eps", "optimizer.beta1": "beta_1 b1 betas", "optimizer.beta2": "beta_2 b2",
        "trainer.step(x, y)": "step zero_grad apply_gradients minimize",
    },
    "History": {
        "history['loss']": "loss losses history loss_curve_ epoch_loss", "history['val_loss']": "val_loss",
        "history['accuracy']": "accuracy acc", "history['val_accuracy']": "val_accuracy val_acc validation_scores_",
        "history['epoch']": "epoch epochs", "history.rows": "to_df to_frame to_dict dataframe to_pandas params",
    },
    "EarlyStopping": {"trainer.history.best_epoch": "best_epoch stopped_epoch best best_epoch_"},
    "gpu_backprop": {
        "gb.Network": "Sequential Model MLP Module Net FeedForward", "gb.Trainer": "Learner Lightning NeuralNet fit",
        "gb.MLPClassifier": "NeuralNetClassifier KerasClassifier",
        "gb.MLPRegressor": "NeuralNetRegressor KerasRegressor",
        "gb.Dense": "Linear Input InputLayer FullyConnected LazyLinear nn layers",
        "gb.Dense(100, 'relu')": "ReLU Relu relu Tanh Sigmoid GELU SiLU Softmax activations LeakyReLU ELU",
        "gb.MeanSquaredError": "MSELoss MSE mse", "gb.AbsoluteError": "L1Loss MAE MeanAbsoluteError",
        "gb.CrossEntropy":
            "CrossEntropyLoss NLLLoss CategoricalCrossentropy SparseCategoricalCrossentropy losses SoftmaxCrossEntropy",
        "gb.BinaryCrossEntropy": "BCELoss BCEWithLogitsLoss BinaryCrossentropy BCE",
        "gb.Huber": "HuberLoss SmoothL1Loss",
        "gb.Poisson": "PoissonNLLLoss", "gb.Focal": "FocalLoss BinaryFocalCrossentropy", "gb.Quantile": "PinballLoss",
        "gb.Cosine": "CosineAnnealingLR CosineDecay", "gb.StepDecay": "StepLR MultiStepLR",
        "gb.Exponential": "ExponentialLR ExponentialDecay", "gb.Polynomial": "PolynomialLR PolynomialDecay LinearLR",
        "gb.OneCycle": "OneCycleLR", "gb.Warmup": "LinearWarmup WarmupCosine", "gb.Constant": "ConstantLR",
        "gb.ReduceOnPlateau": "ReduceLROnPlateau",
        "gb.Checkpoint": "ModelCheckpoint BackupAndRestore SaveModelCallback",
        "trainer.fit(x, y, csv='history.csv')": "CSVLogger", "gb.fit_lbfgs": "LBFGS lbfgs", "gb.NAdam": "Nadam",
        "gb.RMSprop": "RMSProp rmsprop", "gb.Adam": "adam optim optimizers", "gb.SGD": "sgd Momentum",
        "gb.save": "save_model save_weights dump", "gb.load": "load_model load_weights load_from_checkpoint",
        "gb.one_hot": "to_categorical", "gb.EarlyStopping": "EarlyStoppingCallback",
        "gb.open_rows": "DataLoader Dataset",
        "gb.Network(20, layers, seed=0)": "manual_seed set_seed seed_everything",
        "gb.Network(20, layers, device='cuda')": "device cuda",
    },
}  # fmt: skip
"""Attributes of an object, be they read or set, and what is looked for in the package."""

OPTIONS: Names = {
    "--learning-rate": "lr rate eta learning-rate-init base-lr max-lr", "--batch-size": "bs batch mini-batch-size",
    "--layers": "hidden units hidden-layer-sizes hidden-size hidden-units hidden-dims n-hidden num-layers arch",
    "--epochs": "iterations max-iter max-epochs num-epochs n-epochs nb-epoch n-iter max-steps num-train-epochs",
    "--target": "label labels y target-column label-column response", "--held-out": "test-size test-split",
    "--validation": "validation-split val-split valid-pct validation-fraction val-size val valid",
    "--device": "gpu gpus cuda use-cuda no-cuda no-gpu cpu accelerator gpu-id",
    "--seed": "random-state random-seed rng",
    "--delimiter": "sep separator", "--ignore": "drop exclude drop-columns ignore-columns", "--overwrite": "force",
    "--loss": "criterion objective loss-fn", "--optimizer": "optim opt solver", "--activation": "act nonlinearity",
    "--dtype": "precision fp16 bf16 amp half", "--impute": "fillna missing-values", "--l2": "alpha lambda reg-lambda",
    "--weight-decay": "wd", "--clip-value": "clip clipvalue", "--dropout": "p dropout-rate drop-prob",
    "--clip-norm": "clipnorm max-grad-norm grad-clip gradient-clip-val gradient-clip", "--l1": "reg-alpha",
    "--schedule": "scheduler lr-scheduler lr-schedule lr-scheduler-type", "--warmup": "warmup-steps warmup-ratio",
    "--average": "ema ema-decay swa", "--accumulate": "accumulate-grad-batches gradient-accumulation-steps",
    "--out": "output-dir outdir out-dir save-dir log-dir logdir dir save save-path default-root-dir output model-dir",
    "--output": "out output-file outfile save", "--quiet": "silent verbose q", "--patience": "early-stopping",
    "--resume": "ckpt-path resume-from-checkpoint continue", "--data": "input train-data dataset file",
    "--checkpoint-every": "save-freq save-every save-steps checkpoint", "--metrics": "metric scoring eval-metric",
    "--class-weight": "class-weights pos-weight", "--ensemble": "n-estimators n-models members",
    "--text": "categorical", "--grid": "param-grid param-distributions space params hyperparameters",
    "--trials": "n-trials num-trials max-trials", "--folds": "cv n-splits k-folds num-folds k",
}  # fmt: skip
"""Options of the commands."""


def meanings(table: Names, name: str) -> Iterator[str]:
    """Yields what to write for a name, as the rows of a table come."""
    return (meant for meant, names in table.items() if name in names and name in names.split())
