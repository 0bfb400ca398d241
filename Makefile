# `make demo`: from nothing to a trained, tested detector; `make demo-rprnet`: another; `make compare`: all.
# `make test`: the tests; `make faults`: ten minutes of kills, full disks and damaged files. Each makes .venv first.
PYTHON ?= python3
RUN := .venv/bin/python

DEMO_DATA := data/Synthetic
DEMO_TRAIN := --epochs 8 --seq_len 20 --patch_size 32 --sample_rate 0.4 --learning_rate 0.003 \
	--set schedule_options.step_size=4 --set validation=holdout --set best=iou

MOVING_DATA := data/moving_demo/Synthetic

RPRNET_DATA := data/rprnet_demo/Synthetic
RPRNET_TRAIN := --epochs 3 --patch_size 48 --learning_rate 5e-4 --num_workers 0 --set schedule=constant \
	--set validation=holdout --set best=iou --set model.init=constructor --set loss_options.variant=clean

.PHONY: demo demo-rprnet compare test test-slow faults lint clean

.venv/ready: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	$(RUN) -m pip install --quiet --no-deps "trackeval>=1.3" # else it brings an OpenCV with windows beside ours
	touch $@

$(DEMO_DATA)/synthetic.json: | .venv/ready
	$(RUN) tools/make_synthetic.py --out $(DEMO_DATA) --preview

$(MOVING_DATA)/synthetic.json: | .venv/ready
	$(RUN) tools/make_synthetic.py --out $(MOVING_DATA) --train_sequences 1 --test_sequences 2 --frames 120 \
		--drift_speed 1 1.5 --jitter_std 0.5 --horizon 0 0 --high_snr 8 12

demo: .venv/ready $(DEMO_DATA)/synthetic.json $(MOVING_DATA)/synthetic.json
	$(RUN) train.py --model_names DeepPro --dataset_names Synthetic --log_dir log/demo $(DEMO_TRAIN)
	$(RUN) test.py --model_names DeepPro TopHat --dataset_names Synthetic --log_dir log/demo \
		--checkpoint "$$(ls -d log/demo/Synthetic/DeepPro/*/best.pth | tail -n 1)" --save_overlays
	$(RUN) predict.py $(MOVING_DATA)/Sequence3 --log_dir log/demo

$(RPRNET_DATA)/synthetic.json: | .venv/ready
	$(RUN) tools/make_synthetic.py --out $(RPRNET_DATA) --train_sequences 8 --test_sequences 2 \
		--height 48 --width 48 --frames 40 --targets 1 2

demo-rprnet: .venv/ready $(RPRNET_DATA)/synthetic.json
	$(RUN) train.py --model_names RPRNet --dataset_names Synthetic --dataset_dir data/rprnet_demo \
		--log_dir log/demo_rprnet $(RPRNET_TRAIN)
	$(RUN) test.py --model_names RPRNet TopHat --dataset_names Synthetic --dataset_dir data/rprnet_demo \
		--log_dir log/demo_rprnet --protocol published clean --save_overlays \
		--checkpoint "$$(ls -d log/demo_rprnet/Synthetic/RPRNet/*/best.pth | tail -n 1)"

# Every mask detector, trained as briefly: one epoch in which each frame, or window, comes up once.
COMPARED := DeepPro DeepPro-Plus TSMSA ResUNet-DTUM ResUNet-RFR ACM DNANet RDIAN MSHNet
COMPARE_TRAIN := --dataset_names Synthetic --dataset_dir data/rprnet_demo --log_dir log/compare --epochs 1 \
	--sample_rate 1 --batch_size 2 --patch_size 48 --learning_rate 1e-3 --num_workers 0 --set schedule=constant \
	--set validation=holdout --set train_resize=None --set test_resize=None --protocol clean

compare: .venv/ready $(RPRNET_DATA)/synthetic.json
	$(RUN) train.py --model_names $(COMPARED) $(COMPARE_TRAIN)
	$(RUN) train.py --model_names RPRNet $(COMPARE_TRAIN) --set model.init=constructor \
		--set loss_options.variant=clean
	$(RUN) test.py --model_names $(COMPARED) RPRNet TopHat --dataset_names Synthetic \
		--dataset_dir data/rprnet_demo --log_dir log/compare --protocol clean \
		--checkpoint $$(for m in $(COMPARED) RPRNet; do ls -d log/compare/Synthetic/$$m/*/best.pth | tail -n 1; done)

test: .venv/ready
	$(RUN) -m pytest -n auto --dist loadscope

test-slow: .venv/ready
	$(RUN) -m pytest -m slow

# What is injected, and how much: make faults FAULTS="--form full", FAULTS="--classes kills --seed 7"; Linux.
FAULTS :=
faults: .venv/ready
	$(RUN) -m tests.faults $(FAULTS)

lint: .venv/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:
	rm -rf .venv .pytest_cache .ruff_cache
